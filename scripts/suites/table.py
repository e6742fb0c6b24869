"""What the rows say: the table of docs/suites.md, and every test that passes stock and fails accelerated.

python -m scripts.suites.table rows
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.suites.excuses import Excuse, excuses
from scripts.suites.groups import GROUPS
from scripts.suites.rows import read_rows, row_file

MODES = ("kept", "sparse")
HEAD = """\
| library | group | pass stock | kept: pass | with sparse calls | sparse: pass | with sparse calls |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Run:
    """One group in one mode, beside its stock run.

    Args:
        mode: kept or sparse.
        rows: of the tests that pass stock and ran in this mode too, by test.
    """

    mode: str
    rows: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, out: Path, library: str, group: str, mode: str) -> Run:
        stock = read_rows(row_file(out, library, group, "stock"))
        passing = {test for test, row in stock.items() if row["outcome"] == "passed"}
        rows = read_rows(row_file(out, library, group, mode))
        return cls(mode, {test: row for test, row in rows.items() if test in passing})

    def broken(self) -> list[str]:
        """The tests that fail."""
        return [test for test, row in self.rows.items() if row["outcome"] == "failed"]

    def cells(self) -> str:
        """How many pass of those that ran, and in what share of them a call ran sparse."""
        if not self.rows:
            return "not run | "
        passed = sum(row["outcome"] == "passed" for row in self.rows.values())
        share = sum(row["sparse"] > 0 for row in self.rows.values()) / len(self.rows)
        return f"{passed} of {len(self.rows)} | {share:.2f}"


def table(out: Path) -> Iterator[str]:
    """A line for each group that ran stock."""
    yield HEAD
    for library, groups in GROUPS.items():
        for group in groups:
            stock = read_rows(row_file(out, library, group, "stock"))
            passing = sum(row["outcome"] == "passed" for row in stock.values())
            runs = [Run.read(out, library, group, mode).cells() for mode in MODES]
            if stock:
                yield f"| {library} | {group} | {passing} | {' | '.join(runs)} |"


def failures(out: Path, known: list[Excuse]) -> Iterator[tuple[str, bool]]:
    """One line for each test that breaks, and whether it is excused."""
    for library, groups in GROUPS.items():
        for run in (Run.read(out, library, group, mode) for group in groups for mode in MODES):
            for test in run.broken():
                why = next((excuse.why for excuse in known if excuse.covers(test, run.mode)), None)
                error = (run.rows[test]["error"] or "?").splitlines()[0]
                yield f"{run.mode}: {test}: " + (f"excused: {why}" if why else error), why is not None


def main(out: Annotated[Path, typer.Argument(help="the folder of rows", exists=True)]) -> None:
    """Print the table, then what breaks; the exit status is 1 if anything does without an excuse."""
    print(*table(out), sep="\n", end="\n\n")
    broken = list(failures(out, excuses()))
    print(*(line for line, _ in broken), sep="\n")
    raise typer.Exit(any(not excused for _, excused in broken))


if __name__ == "__main__":
    typer.run(main)
