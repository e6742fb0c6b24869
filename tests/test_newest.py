"""The report on the newest releases: one line, in words that no reader of logs takes for the main suite's."""

import runpy
from pathlib import Path

import pytest

NEWEST = runpy.run_path(str(Path(__file__).parent.parent / ".ci" / "newest.py"))
LOG = """\
[gw0] [ 33%] PASSED tests/apply/test_leaks.py::test_a[x y]
[gw1] [ 66%] SKIPPED tests/apply/test_leaks.py::test_b
{last}
"""


@pytest.fixture
def report(tmp_path, capsys):
    def run(last, ended=True):
        (tmp_path / "test.log").write_text(LOG.format(last=last))
        good = NEWEST["summarise"](tmp_path / "test.log", ended, "torch 3.0")
        return good, capsys.readouterr().out

    return run


def test_what_holds_is_said(report):
    good, text = report("[gw0] [100%] PASSED tests/patches/test_autocast.py::test_c")
    assert good and text.startswith("newest releases: good: all 2 tests that ran hold (torch 3.0)")


def test_what_breaks_is_named(report):
    good, text = report("[gw0] [100%] FAILED tests/patches/test_autocast.py::test_c")
    assert not good and "NOT GOOD: 1 of 2 tests break" in text
    assert "  breaks: tests/patches/test_autocast.py::test_c" in text


def test_a_run_that_did_not_end_says_so(report):
    good, text = report("", ended=False)
    assert good and "all 1 tests that ran hold, stopped after" in text


def test_a_run_that_did_not_begin_is_not_good(tmp_path, capsys):
    (tmp_path / "test.log").write_text("ImportError while loading conftest\n")
    assert not NEWEST["summarise"](tmp_path / "test.log", True, "torch 3.0")
    assert "NOT GOOD" in capsys.readouterr().out


def test_no_words_of_a_test_runner(report):
    assert not {"passed", "failed", "error"} & set(report("FAILED tests/a.py::test_b")[1].lower().split())


def test_ranges_go_and_markers_stay():
    unbounded = NEWEST["unbounded"]()
    assert "triton; platform_system == 'Linux'" in unbounded and "diffusers" in unbounded
    assert not any("<" in requirement for requirement in unbounded)
