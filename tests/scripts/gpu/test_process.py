"""Stages survive what they run: a failure, crash or hang costs one row, and every row is in the file."""

import json
import sys

import pytest
from pytest import fixture, mark

from scripts.gpu.process import run_stage
from scripts.gpu.record import Record
from scripts.gpu.stages import OUT, ROOT, Stage
from scripts.row_file import POISONED, RowFile, read_rows

MACHINE = {"device": "a GPU", "sources": "abc", "commit": "def"}
MEASURE = """
import os, sys, time
from pathlib import Path
from scripts.row_file import RowFile
rows = RowFile(Path(sys.argv[1]))
def bad(): raise ValueError("no such thing")
def poison(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def crash(): os._exit(3)
for name, what in {"a": lambda: {"ms": 1}, "bad": bad, "poison": poison, "crash": crash,
                   "hang": lambda: time.sleep(99), "z": lambda: {"ms": 2}}.items():
    if name in sys.argv[2:]:
        rows.add(name, what, limit=0.3)
"""


@fixture
def record(tmp_path):
    return Record(tmp_path / "out.json", MACHINE, resume=False)


def stage(*names, seconds=1, limit=60):
    return Stage("s", (sys.executable, "-c", MEASURE, OUT, *names), seconds, limit)


def run(record, *names, limit=60):
    entry = run_stage(stage(*names), [], record, limit)
    assert json.loads(record.path.read_text())["stages"]["s"]["rows"] == entry["rows"]
    return entry, {row["key"]: row for row in entry["rows"]}


def test_what_passes(record):
    entry, rows = run(record, "a", "z")
    assert entry["status"] == "passed" and rows == {"a": {"key": "a", "ms": 1}, "z": {"key": "z", "ms": 2}}


@mark.parametrize("bad", ["bad", "poison", "crash", "hang"])
def test_one_bad_row_costs_no_other(record, bad):
    entry, rows = run(record, "a", bad, "z")
    assert entry["status"] == "failed" and set(rows) == {"a", bad, "z"}
    assert rows["a"]["ms"] == 1 and rows["z"]["ms"] == 2
    reason = {"bad": "no such thing", "poison": "illegal memory access"}.get(bad, "hung or crashed")
    assert reason in rows[bad]["failed"]


def test_a_stage_that_cannot_even_begin_says_why(record):
    entry = run_stage(Stage("s", (sys.executable, "-c", "import nonexistent"), 1, 60), [], record, 60)
    assert entry["status"] == "failed" and "nonexistent" in entry["output"] and entry["rows"] == []


def test_when_the_time_is_up_rows_are_kept_and_gone_on_with(record, tmp_path):
    slow = "import time, sys; from pathlib import Path; from scripts.row_file import RowFile\n"
    slow += "r = RowFile(Path(sys.argv[1]))\n"
    slow += "for i in range(2): r.add(str(i), lambda: time.sleep(i * float(sys.argv[2])) or {'ms': i}, 60)"
    entry = run_stage(Stage("s", (sys.executable, "-c", slow, OUT, "60"), 1, 60), [], record, 3)
    assert entry["status"] == "incomplete" and [row["key"] for row in entry["rows"]] == ["0"]
    again = Record(record.path, MACHINE, resume=True)
    assert not again.finished("s")
    entry = run_stage(Stage("s", (sys.executable, "-c", slow, OUT, "0"), 1, 60), [], again, 60)
    assert entry["status"] == "passed" and [row["key"] for row in entry["rows"]] == ["0", "1"]
    assert again.finished("s")


@mark.parametrize("changed", ["device", "sources"])
def test_what_is_of_other_code_or_another_machine_is_measured_anew(record, changed):
    run(record, "a")
    other = Record(record.path, {**MACHINE, changed: "other"}, resume=True)
    assert not other.finished("s") and other.rows_so_far("s") == [] and "s" in other.stages


def test_half_a_line_is_no_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a", "ms": 1}\n{"key": "b", "begun": true}\n{"key": "b", "m')
    assert read_rows(path) == ([{"key": "a", "ms": 1}], ["b"])
    assert RowFile(path).announced == {"a", "b"}


TESTS = """
import os, time, pytest
def test_passes(): pass
def test_fails(): assert 1 == 2
def test_poisons(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def test_crashes(): os._exit(1)
def test_hangs(): time.sleep(99)
@pytest.mark.skip(reason="not here")
def test_skipped(): pass
@pytest.fixture
def broken(): raise ValueError("no such fixture")
def test_setup(broken): pass
def test_last(): pass
"""


def test_every_test_has_an_outcome(record, tmp_path):
    """What pytest runs goes on behind tests that hang, crash or spoil the process."""
    file = tmp_path / "test_all_sorts.py"
    file.write_text(TESTS)
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "scripts.gpu.test_rows",
        "-p",
        "no:cacheprovider",
        str(file),
    )
    tests = Stage("s", command, 1, 60, environment={"TEST_ROWS": OUT, "TEST_SECONDS": "0.5"})
    entry = run_stage(tests, ["--rootdir", str(tmp_path)], record, 60)
    found = {row["key"].rpartition("::test_")[2]: row for row in entry["rows"]}
    outcomes = {name: row.get("outcome", "lost") for name, row in found.items()}
    assert outcomes == {
        "passes": "passed", "fails": "failed", "poisons": "failed", "crashes": "lost", "hangs": "lost",
        "skipped": "skipped", "setup": "failed", "last": "passed",
    }  # fmt: skip
    assert "1 == 2" in found["fails"]["reason"] and "not here" in found["skipped"]["reason"]
    assert entry["status"] == "failed"


def test_a_poisoned_process_has_a_status_of_its_own():
    assert POISONED not in (0, 1, 2, 3, 4, 5), "those are pytest's"
    assert (ROOT / "scripts" / "gpu" / "check.py").exists()


def test_estimates_must_make_sense():
    with pytest.raises(ValueError, match="seconds <= limit, got 9, 5"):
        stage(seconds=9, limit=5)


def test_rows_are_in_the_file_while_a_stage_runs(record, tmp_path):
    """What is killed with everything else has kept what it measured, all but the last seconds' of it."""
    code = "import json, sys, time; from pathlib import Path; from scripts.row_file import RowFile\n"
    code += "r = RowFile(Path(sys.argv[1])); r.add('a', lambda: {'ms': 1}); time.sleep(2)\n"
    code += f"print(json.loads(Path({str(record.path)!r}).read_text())['stages']['s'])"
    entry = run_stage(Stage("s", (sys.executable, "-c", code, OUT), 1, 60), [], record, 60)
    assert "'status': 'running'" in entry["output"] and "'ms': 1" in entry["output"]


def test_a_crowd_of_rows_is_written_once_a_second(record):
    written = [record.put("s", {"status": "running", "rows": [n]}, at_once=False) for n in range(20)]
    assert written == [True] + [False] * 19 and record.put("s", {"status": "passed", "rows": []})
