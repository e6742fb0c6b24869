"""Files appear whole, records survive any process, and one run holds a folder at a time."""

import json
import multiprocessing
import subprocess
import sys

from pytest import fixture, mark, raises

from accel.batch.manifest import Manifest, fingerprint
from accel.files import FolderLock, remove_leftovers, whole_file
from accel.mistake import Mistake


@fixture
def manifest(tmp_path):
    manifest = Manifest(tmp_path / "out")
    manifest.create()
    return manifest


def add(manifest, name, video=b"video"):
    (manifest.folder / f"{name}.mp4").write_bytes(video)
    record = {"name": name, "file": f"{name}.mp4", "bytes": len(video), "fingerprint": "0"}
    manifest.add(name, record)


def names(manifest):
    return [json.loads(line)["name"] for line in manifest.path.read_text().splitlines()]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old" and partial.parent == tmp_path and partial.suffix == ".txt"
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    script = "import os\nfrom accel.files import whole_file\nfrom pathlib import Path\n"
    script += "with whole_file(Path('clip.mp4')) as part:\n part.write_text('half')\n os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".clip-")
    kept = {".hidden", ".clip-notes.mp4", "clip.part.mp4"}
    for name in kept:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_recorded_video_is_found_while_it_is_whole(manifest):
    add(manifest, "a")
    assert manifest.find("a")["bytes"] == 5
    assert manifest.find("b") is None
    (manifest.folder / "a.mp4").write_bytes(b"vid")
    assert manifest.find("a") is None


@mark.parametrize("text", ["", "{", "[]", '{"file": null}'], ids=repr)
def test_a_damaged_record_is_none(manifest, text):
    add(manifest, "a")
    (manifest.records / "a.json").write_text(text)
    assert manifest.find("a") is None
    manifest.merge()


def test_the_manifest_can_be_made_again_from_the_records(manifest):
    for name in ("b", "a"):
        add(manifest, name)
    before = manifest.path.read_text()
    manifest.path.unlink()
    (manifest.records / "of-something-else.json").write_text('{"url": "https://example.org"}')
    manifest.merge()
    manifest.create()
    assert manifest.path.read_text() == before and names(manifest) == ["a", "b"]


def _add_some(folder, which):
    for number in range(12):
        add(Manifest(folder), f"{which}-{number}")


def test_a_manifest_without_its_records_is_continued(manifest):
    add(manifest, "a")
    before = manifest.path.read_text()
    (manifest.records / "a.json").unlink()
    manifest.create()
    manifest.merge()
    assert manifest.find("a")["bytes"] == 5 and manifest.path.read_text() == before


@mark.parametrize(
    "text",
    [
        '{"url": "https://example.org"}\n', "not JSON", "[1]\n", "\xff",
        '{"name": "../a", "file": "a.mp4", "fingerprint": "0"}\n',
    ],
)  # fmt: skip
def test_a_manifest_of_something_else_stays_as_it_is(tmp_path, text):
    path = tmp_path / "manifest.jsonl"
    path.write_text(text)
    with raises(Mistake, match=r"manifest\.jsonl: something else than accel generate --prompts wrote it"):
        Manifest(tmp_path).create()
    assert path.read_text() == text and list(tmp_path.iterdir()) == [path]


def test_records_of_processes_at_once_all_end_in_the_manifest(manifest):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add_some, args=(manifest.folder, which)) for which in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(names(manifest)) == sorted(f"{which}-{number}" for which in "abcd" for number in range(12))
    assert not [path for path in manifest.records.iterdir() if path.name.startswith(".")]


def test_equal_data_have_equal_fingerprints():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    first, worker, second = (FolderLock(tmp_path) for _ in range(3))
    first.hold()
    with raises(BlockingIOError, match="another run is writing to this folder"):
        second.hold()
    first.hold(alone=False)
    worker.hold(alone=False)
    first.release()
    with raises(BlockingIOError):
        second.hold()
    worker.release()
    second.hold()
    second.release()
