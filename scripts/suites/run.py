"""Runs diffusers' and transformers' own tests: with every block kept, sparse, and stock.

python -m scripts.suites.run /path/to/diffusers diffusers --out rows
python -m scripts.suites.table rows

Each file of tests runs in its own process. An interrupted run continues: tests that have a row
are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer

from scripts.suites.groups import GROUPS, LEFT_OUT
from scripts.suites.rows import row_file, rows_of

ROOT = Path(__file__).parent.parent.parent
PLUGINS = ["older", "offline", "peft_floor", "compile_on_cpu", "positions", "plugin"]
RAN = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED
# Warnings are not filtered: some of the tests look for them.
QUIET = ["-q", "--tb=short", "--disable-warnings", "-p", "no:cacheprovider"]


@dataclass(frozen=True)
class Suite:
    """A library's tests, and where their rows go.

    Args:
        checkout: where the tests are.
        library: diffusers or transformers.
        out: a folder for the rows.
        seconds: the longest a test may take.
        keyword: pytest's expression for the tests that run.
        until: the time at which to stop, of `time.monotonic`.
    """

    checkout: Path
    library: str
    out: Path
    seconds: int
    keyword: str
    until: float

    def files(self, group: str) -> Iterator[str]:
        """The files of a group."""
        for place in GROUPS[self.library][group]:
            path = self.checkout / place
            for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
                if file.exists():
                    yield str(file.relative_to(self.checkout))

    def run(self, file: str, mode: str, only: list[str]) -> None:
        """Run one file in one mode, or these tests of it.

        Raises:
            subprocess.TimeoutExpired: if the time is over; the tests that ended have their rows.
        """
        rows = row_file(self.out, self.library, file, mode)
        done = rows.with_suffix(".done")
        if not only and done.exists() and done.read_text() == self.keyword:
            return
        plugins = [part for name in PLUGINS for part in ("-p", f"scripts.suites.{name}")]
        options = [f"--accel={mode}", f"--accel-seconds={self.seconds}", f"--accel-report={rows}"]
        command = [sys.executable, "-m", "pytest", *QUIET, *plugins, *options, *(only or [file])]
        if self.keyword and not only:
            command += ["-k", self.keyword]
        with rows.with_suffix(".log").open("a") as log:
            ended = subprocess.run(
                command,
                cwd=self.checkout,
                env=environment(),
                stdout=log,
                stderr=log,
                timeout=max(1, self.until - time.monotonic()),
            )
        if ended.returncode not in RAN:
            typer.echo(f"{file}: did not run to its end, see {log.name}", err=True)
        elif not only:
            done.write_text(self.keyword)


def main(
    checkout: Annotated[Path, typer.Argument(help="where the library's tests are", exists=True)],
    library: Annotated[str, typer.Argument(help="diffusers or transformers")],
    out: Annotated[Path, typer.Option(help="a folder for the rows")],
    group: Annotated[list[str] | None, typer.Option(help="these groups; default: all")] = None,
    file: Annotated[list[str] | None, typer.Option(help="these files instead of groups")] = None,
    mode: Annotated[list[str] | None, typer.Option(help="stock, kept, sparse; default: all")] = None,
    failing: Annotated[bool, typer.Option(help="only the tests that failed kept or sparse")] = False,
    keyword: Annotated[str | None, typer.Option("-k", help="pytest's choice of tests")] = None,
    seconds: Annotated[int, typer.Option(help="the longest a test may take")] = 60,
    minutes: Annotated[float, typer.Option(help="stop after this long; the next run continues")] = 600,
) -> None:
    """Run the files of the groups in each mode."""
    chosen = LEFT_OUT[library] if keyword is None else keyword
    until = time.monotonic() + 60 * minutes
    suite = Suite(checkout.resolve(), library, out.resolve(), seconds, chosen, until)
    for how in mode or ["kept", "sparse", "stock"]:
        for path in file or [path for name in group or GROUPS[library] for path in suite.files(name)]:
            only = failed(suite, path, how) if failing else []
            if failing and not only:
                continue
            try:
                suite.run(path, how, only)
            except subprocess.TimeoutExpired:
                raise typer.Exit(1) from None


def failed(suite: Suite, file: str, mode: str) -> list[str]:
    """The tests of a file that failed kept or sparse and have no row in this mode."""
    runs = [rows_of(suite.out, suite.library, how, (file,)) for how in ("kept", "sparse")]
    here = rows_of(suite.out, suite.library, mode, (file,))
    bad = {test for rows in runs for test, row in rows.items() if row["outcome"] == "failed"}
    return sorted(bad - set(here))


def environment() -> dict[str, str]:
    """Our own faults fail the test they happen in; nothing is downloaded and no kernel is checked."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"PYTHONPATH": path, "ACCEL_STRICT": "1", "ACCEL_CHECK": "0"}
    return {"HF_HUB_OFFLINE": "1"} | os.environ | ours


if __name__ == "__main__":
    typer.run(main)
