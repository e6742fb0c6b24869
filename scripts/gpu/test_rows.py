"""A pytest plugin that writes every test's outcome to the file TEST_ROWS and skips the tests already in it.

    TEST_ROWS=rows.jsonl TEST_SECONDS=90 python -m pytest -p scripts.gpu.test_rows tests/kernels

A test longer than TEST_SECONDS ends the process, and so does a CUDA error, which would spoil all later tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.row_file import POISONED, RowFile, is_poison

ROWS = RowFile(Path(os.environ["TEST_ROWS"]))
SECONDS = float(os.environ.get("TEST_SECONDS", "90"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    done = [item for item in items if item.nodeid in ROWS.announced]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in ROWS.announced]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None):  # type: ignore[no-untyped-def]
    ROWS.begin(item.nodeid, SECONDS)
    return (yield)


_phases: list[pytest.TestReport] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The first of a test's phases (setup, call, teardown) that did not pass counts."""
    _phases.append(report)
    if report.when != "teardown":
        return
    worst = next((phase for phase in _phases if not phase.passed), report)
    seconds = round(sum(phase.duration for phase in _phases), 2)
    _phases.clear()
    reason = "" if worst.passed else _reason(worst)
    ROWS.end(report.nodeid, {"outcome": worst.outcome, "seconds": seconds, "reason": reason})
    if worst.failed and is_poison(reason):
        pytest.exit("a CUDA error spoils every test after it", returncode=POISONED)


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext[-1500:]
