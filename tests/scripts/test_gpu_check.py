import json

import pytest
import torch
import typer

import gpu_check


def test_without_a_gpu_it_says_so_and_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(typer.Exit) as stopped:
        gpu_check.main(tmp_path / "out.json")
    assert stopped.value.exit_code == 1 and "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("failing", [None, "pytest", "compute-sanitizer"])
def test_nothing_is_timed_unless_every_check_passes(tmp_path, monkeypatch, failing):
    ran = []

    def run(command):
        ran.append(" ".join(command))
        failed = failing is not None and (
            command[0] == failing or (failing == "pytest" and command[:3][-1] == "pytest")
        )
        return {"command": command, "returncode": int(failed), "output": ""}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check, "machine", dict)
    monkeypatch.setattr(gpu_check, "kernels", lambda quick: ["rows"])
    monkeypatch.setattr(gpu_check, "planning", lambda quick: ["stages"])
    with pytest.raises(typer.Exit) as stopped:
        gpu_check.main(tmp_path / "out.json", quick=True)
    found = json.loads((tmp_path / "out.json").read_text())
    assert stopped.value.exit_code == (failing is not None)
    assert (found["kernels"], found["planning"]) == ((["rows"], ["stages"]) if not failing else (None, None))
    assert sum("compute-sanitizer --tool" in command for command in ran) == 2


def test_a_missing_sanitizer_is_said_and_is_no_failure(monkeypatch):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda tool: None)
    assert gpu_check.sanitize("memcheck")["returncode"] is None
