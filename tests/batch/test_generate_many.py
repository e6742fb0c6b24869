"""`accel generate --prompts` by one process and by two: split, killed, resumed."""

import json
import os
import subprocess
import sys
import time

import psutil
from accelerate import PartialState
from pytest import fixture, mark, raises

from accel.cli.app import main

SMALL = ["--height", "32", "--width", "48", "--frames", "5", "--steps", "2", "--device", "cpu"]
TWO = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
LAUNCH = ["-m", "accelerate.commands.launch", *TWO, "--mixed_precision", "no", "--dynamo_backend", "no"]
PATIENCE = 400


def write(folder, count):
    path = folder / "prompts.jsonl"
    lines = [{"prompt": "a red circle", "name": f"clip-{seed}", "seed": seed} for seed in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def records(out):
    return {path.stem: json.loads(path.read_text()) for path in (out / "records").glob("[!.]*.json")}


def manifest(out):
    return [json.loads(line)["name"] for line in (out / "manifest.jsonl").read_text().splitlines()]


@fixture
def accel(monkeypatch, capsys):
    """Run the command line in this process; gives its exit code and what it printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["accel", *map(str, arguments)])
        with raises(SystemExit) as stopped:
            main()
        return (stopped.value.code or 0, *capsys.readouterr())

    yield run
    PartialState._reset_state()


def test_one_process_makes_what_is_missing(accel, tmp_path):
    out, more = tmp_path / "out", ("--seed", 9, "--json")
    asked = ("generate", "--prompts", write(tmp_path, 2), "--out", out, *SMALL, *more)
    code, told, _ = accel(*asked)
    assert code == 0
    assert json.loads(told) == {"process": 0, "made": ["clip-0", "clip-1"], "failed": {}, "prompts": 2}
    before = (out / "clip-0.mp4").stat().st_mtime_ns
    write(tmp_path, 3)
    code, told, _ = accel(*asked)
    assert code == 0 and json.loads(told)["made"] == ["clip-2"]
    assert (out / "clip-0.mp4").stat().st_mtime_ns == before
    assert sorted(manifest(out)) == ["clip-0", "clip-1", "clip-2"]


MISTAKES = {
    "a bad line": (["--out", "out"], '{"prompt": "a", "sed": 1}', "prompts.jsonl:1: unknown key 'sed'"),
    "no folder": ([], '{"prompt": "a"}', "--prompts needs --out"),
    "a comparison": (["--out", "out", "--dense"], '{"prompt": "a"}', "and not --dense"),
    "a file": (["--out", "out", "-o", "a.mp4"], '{"prompt": "a"}', "and not --output"),
    "a wrong recipe": (["--out", "out", "--recipe", "radail"], '{"prompt": "a"}', "'radail'"),
    "a wrong change": (
        ["--out", "out", "--recipe", "radial", "--set", "dcay=1"],
        '{"prompt": "a"}',
        "did you mean 'decay'?",
    ),
}


@mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_before_anything_is_loaded(accel, tmp_path, monkeypatch, case):
    arguments, line, expected = MISTAKES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(line)
    code, _, told = accel("generate", "--prompts", "prompts.jsonl", "--model", "no/such-model", *arguments)
    assert code == 2 and expected in told and "Traceback" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def two_processes(prompts, out):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *LAUNCH, "-m", "accel", "generate", "--prompts", prompts, "--out", out, *SMALL]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@mark.slow
def test_a_killed_workers_prompts_are_redone_at_the_next_start(tmp_path):
    prompts, out = write(tmp_path, 10), tmp_path / "out"
    first = two_processes(prompts, out)
    try:
        wait_for(lambda: first.poll() is not None or records(out))
        workers = [child for child in psutil.Process(first.pid).children() if "accel" in child.cmdline()]
        assert len(workers) == 2
        workers[1].kill()
        assert first.wait(PATIENCE) != 0
    finally:
        first.kill()
    finished = records(out)
    assert 0 < len(finished) < 10
    times = {name: (out / f"{name}.mp4").stat().st_mtime_ns for name in finished}
    for name, record in finished.items():
        assert (out / f"{name}.mp4").stat().st_size == record["bytes"]

    second = two_processes(prompts, out)
    told, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, told
    assert len(manifest(out)) == 10 and set(records(out)) == {f"clip-{seed}" for seed in range(10)}
    assert times == {name: (out / f"{name}.mp4").stat().st_mtime_ns for name in finished}
    hidden = {path.name for folder in (out, out / "records") for path in folder.glob(".*")}
    assert hidden == {".lock"}
    assert sum(f"process {number} of 2: " in told for number in (1, 2)) == 2
    made = [int(line.split(": ")[1].split()[0]) for line in told.splitlines() if line.startswith("process ")]
    assert sum(made) == 10 - len(finished) and abs(made[0] - made[1]) <= 1
