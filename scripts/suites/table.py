"""What the rows say: the table of docs/suites.md, and every test that fails accelerated.

python -m scripts.suites.table rows
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.suites.excuses import Excuse, excuses
from scripts.suites.groups import GROUPS
from scripts.suites.rows import rows_of

MODES = ("kept", "sparse")
# Known: it fails stock too, or has an excuse. Sparse: the share of tests in which a call ran sparse; in the
# sparse mode also of those in which one left blocks out.
COLUMNS = "pass | fail | known | skipped | sparse"
HEAD = f"| library | group | kept: {COLUMNS} | sparse: {COLUMNS} |"


@dataclass(frozen=True)
class Run:
    """One group in one mode, compared with its stock run.

    Args:
        mode: kept or sparse.
        rows: of the tests that ran in this mode, by test.
        stock: of the tests that ran stock.
        known: what may fail, and why.
    """

    mode: str
    rows: dict[str, dict[str, Any]]
    stock: dict[str, dict[str, Any]]
    known: list[Excuse]

    @classmethod
    def read(cls, out: Path, library: str, group: str, mode: str, known: list[Excuse]) -> Run:
        places = GROUPS[library][group]
        return cls(mode, *(rows_of(out, library, how, places) for how in (mode, "stock")), known)

    def failed(self) -> list[str]:
        """The tests that fail."""
        return [test for test, row in self.rows.items() if row["outcome"] == "failed"]

    def reason(self, test: str) -> str:
        """Why a test may fail in this mode; empty if there is no reason."""
        if self.stock.get(test, {}).get("outcome") == "failed":
            return "fails stock too"
        return next((excuse.why for excuse in self.known if excuse.covers(test, self.mode)), "")

    def cells(self) -> tuple[int, int, int, int, str]:
        """Passes, failures, those with a reason, skipped, shares of tests in which a call ran sparse."""
        outcomes = Counter(row["outcome"] for row in self.rows.values())
        ran = outcomes["passed"] + outcomes["failed"]
        counted = ["sparse"] if self.mode == "kept" else ["sparse", "dropped"]
        shares = [sum(row.get(which, 0) > 0 for row in self.rows.values()) / max(1, ran) for which in counted]
        share = ", ".join(f"{share:.0%}" for share in shares) if ran else ""
        reasons = sum(map(bool, map(self.reason, self.failed())))
        return outcomes["passed"], outcomes["failed"], reasons, outcomes["skipped"], share


def table(out: Path, known: list[Excuse]) -> Iterator[str]:
    """A line for each group that ran."""
    yield HEAD
    yield "|---" * HEAD.count(" | ") + "|---|"
    for library, groups in GROUPS.items():
        for group in groups:
            kept, sparse = (Run.read(out, library, group, mode, known) for mode in MODES)
            if not kept.rows and not sparse.rows:
                continue
            others = sparse.cells() if sparse.rows else ("not run", "", "", "", "")
            yield f"| {library} | {group} | {' | '.join(map(str, (*kept.cells(), *others)))} |"


def failures(out: Path, known: list[Excuse]) -> Iterator[tuple[str, bool]]:
    """One line for each test that fails, and whether there is a reason."""
    for library, groups in GROUPS.items():
        for run in (Run.read(out, library, group, mode, known) for group in groups for mode in MODES):
            for test in run.failed():
                why = run.reason(test)
                missing = "" if test in run.stock else "(not run stock) "
                error = (run.rows[test]["error"] or "?").splitlines()[0]
                yield f"{run.mode}: {test}: {why or missing + error}", bool(why)


def main(out: Annotated[Path, typer.Argument(help="the folder of rows", exists=True)]) -> None:
    """Print the table, then what fails; the exit status is 1 if anything does without a reason."""
    known = excuses()
    print(*table(out, known), sep="\n", end="\n\n")
    broken = list(failures(out, known))
    print(*(line for line, _ in broken), sep="\n")
    raise typer.Exit(any(not reason for _, reason in broken))


if __name__ == "__main__":
    typer.run(main)
