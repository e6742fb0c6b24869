"""The order of the GPU check, what it leaves out and why, and that no tier is timed that gets its first calls
wrong."""

import json
import sys
import time

import torch
import typer
from pytest import fixture, mark, raises

from scripts.gpu import check as gpu_check
from scripts.gpu.check import Options, attempt, cannot_begin, timed_tiers
from scripts.gpu.record import Record, machine
from scripts.gpu.stages import OUT, ROOT, Stage, gpu_files, gpu_tiers, stages

MACHINE = {"device": "a GPU", "sources": "abc", "commit": "def"}
WRITE = 'import sys; open(sys.argv[1], \'a\').write(\'{"key": "%s", "outcome": "%s"}\\n\')'


def small(name, outcome="passed", **rest):
    return Stage(name, (sys.executable, "-c", WRITE % (name, outcome), OUT), 1, 60, **rest)


def enough(seconds=600.0, **rest):
    return Options(time.monotonic() + seconds, **rest)


@fixture
def record(tmp_path):
    return Record(tmp_path / "out.json", MACHINE, resume=False)


@fixture
def few(monkeypatch):
    """Two tiers, of which one gets its first calls wrong, something to time, and tests that fail."""
    chosen = [
        small("first calls one", first_calls_of="one"),
        small("first calls two", "failed", first_calls_of="two"),
        small("kernels", alone=True, times_tiers=True),
        small("tests one", "failed", checks="one:128"),
    ]
    monkeypatch.setattr(gpu_check, "stages", lambda: chosen)
    return chosen


def test_without_a_gpu_it_says_so_and_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with raises(typer.Exit) as stopped:
        gpu_check.main(tmp_path / "out.json")
    assert stopped.value.exit_code == 1 and "no GPU" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_only_tiers_whose_first_calls_are_right_are_timed_whatever_tests_say(tmp_path, monkeypatch, few):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "machine", lambda commit: MACHINE)
    with raises(typer.Exit) as stopped:
        gpu_check.main(tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())["stages"]
    assert {name: entry["status"] for name, entry in found.items()} == {
        "first calls one": "passed", "first calls two": "failed", "kernels": "passed", "tests one": "failed",
    }  # fmt: skip
    assert found["kernels"]["arguments"] == ["--tier", "one"]
    assert stopped.value.exit_code == 1, "a stage failed"


def test_a_failing_tier_is_timed_where_that_is_asked_for(record, few):
    gpu_check.run_all(few[:2], record, enough())
    assert timed_tiers(few[2], record, enough())[0] == ["one"]
    assert timed_tiers(few[2], record, enough(even_failing=True))[0] == ["one", "two"]


def test_nothing_is_timed_before_any_call(record, few):
    assert attempt(few[2], record, enough()) is None
    entry = record.stages["kernels"]
    assert entry["status"] == "left out" and "first calls of none" in entry["reason"]


def test_what_is_finished_is_not_repeated(record, few):
    assert gpu_check.run_all(few, record, enough()) == [stage.name for stage in few]
    again = Record(record.path, MACHINE, resume=True)
    assert gpu_check.run_all(few, again, enough()) == []
    assert set(again.stages) == {stage.name for stage in few}


def test_results_that_a_machine_keeps_are_found_anew(record):
    stage = small("checks", each_machine=True)
    for _ in range(2):
        assert gpu_check.run_all([stage], record, enough()) == ["checks"]
        assert len(record.stages["checks"]["rows"]) == 1


@mark.parametrize(
    ("stage", "left", "reason"),
    [
        (small("x", needs=("a_module_that_is_not",)), 600, "a_module_that_is_not is not installed"),
        (small("x", needs=("torch",)), 600, None),
        (small("x"), 20, "20 s are left"),
        (small("x", each_machine=True), 50, "50 s are left"),
        (Stage("x", ("x",), 300, 400, alone=True), 59, "it should take 300 s, and 59 s are left"),
        (Stage("x", ("x",), 300, 400, alone=True), 90, None),
        (Stage("x", ("x",), 40, 400, alone=True), 45, None),
    ],
    ids=["missing", "there", "late", "cut-it-lives-on", "too-long", "a-part-is-worth-it", "short"],
)
def test_what_does_not_fit_is_left_out(stage, left, reason):
    found = cannot_begin(stage, enough(left + 0.4))
    assert found == reason if reason is None else reason in found


def test_leaving_out_does_not_lose_what_an_earlier_run_found(record, few):
    gpu_check.run_all(few[:1], record, enough())
    again = Record(record.path, MACHINE, resume=True)
    assert attempt(few[0], again, enough(1)) is None
    assert again.stages["first calls one"]["status"] == "passed"


def test_stages_have_names_of_their_own_and_files_that_exist():
    names = [stage.name for stage in stages()]
    assert len(names) == len(set(names))
    words = [word for stage in stages() for word in stage.command if word.endswith(".py")]
    assert all((ROOT / word).exists() for word in words)


def test_every_test_marked_gpu_is_in_a_stage():
    files = {word for stage in stages() for word in stage.command if word.startswith("tests/")}
    assert gpu_files() <= files
    matches = {stage.command[stage.command.index("-k") + 1] for stage in stages() if "-k" in stage.command}
    assert {f"{tier}-bfloat16-D128" for tier in gpu_tiers()} <= matches


def test_the_plan_lists_every_stage(capsys, tmp_path):
    gpu_check.main(tmp_path / "out.json", plan=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(stages()) + 2 and "kernels" in "".join(lines)


def test_the_machine_is_known_by_its_code():
    found = machine("abc")
    assert found["commit"] == "abc" and len(found["sources"]) == 16 and found["device"]
    assert machine(None)["sources"] == found["sources"]


def test_a_preflight_that_fails_ends_the_check(record):
    chosen = [
        Stage("preflight", (sys.executable, "-c", "raise SystemExit(1)", OUT), 1, 60, alone=True),
        small("kernels"),
    ]
    assert gpu_check.run_all(chosen, record, enough()) == ["preflight"]


def test_the_preflight_comes_first_and_what_is_asked_for_before_the_suites():
    names = [stage.name for stage in stages()]
    assert names[0] == "preflight"
    first_tests = min(number for number, name in enumerate(names) if name.startswith("tests"))
    assert max(names.index("main shape"), names.index("planning")) < first_tests


@mark.parametrize(
    ("budget", "within"),
    [
        (200, ["preflight", "first calls hopper", "main shape", "planning"]),
        (480, ["tests hopper bfloat16 D128", "tests triton bfloat16 D128"]),
    ],
)
def test_fifteen_minutes_are_480_seconds_and_200(budget, within, monkeypatch):
    """On the H200's machine of 16 cores, by estimate."""
    monkeypatch.setattr(gpu_check, "processes", lambda: 8)
    done = dict(zip([one.name for one in stages()], gpu_check.ends(stages()), strict=True))
    assert all(done[name] <= budget for name in within)
    lines = gpu_check.listing(stages(), budget).splitlines()
    cut = next(number for number, line in enumerate(lines) if line.startswith("--"))
    assert all(any(line.endswith(name) for line in lines[:cut]) for name in within)


def test_the_preflight_names_what_is_missing(tmp_path, monkeypatch, capfd):
    from scripts.gpu import preflight
    from scripts.row_file import read_rows

    monkeypatch.setattr(
        preflight, "NEEDED", {"a": ("json",), "b": ("no_such_module",), "cudnn": ("nor_this",)}
    )
    with raises(typer.Exit):
        preflight.main(tmp_path / "rows.jsonl")
    assert "b: no_such_module: ModuleNotFoundError" in capfd.readouterr().out
    rows = {row["key"]: row["outcome"] for row in read_rows(tmp_path / "rows.jsonl")[0]}
    assert rows == {"a": "passed", "b": "failed", "cudnn": "passed"}
