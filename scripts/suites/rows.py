"""Where the rows of the libraries' tests are, and how to read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.row_file import read_lines

MODES = ("stock", "kept", "sparse")


def row_file(out: Path, library: str, file: str, mode: str) -> Path:
    """The rows of one file of tests in one mode; its folder is made."""
    path = out.resolve() / mode / library / (file.removeprefix("tests/").replace("/", ".") + ".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of one file by test, the last of each, if there is one."""
    return {row["test"]: row for row in read_lines(path)}


def rows_of(out: Path, library: str, mode: str, places: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The rows of all tests in these files and folders."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted((out / mode / library).glob("*.jsonl")):
        rows |= read_rows(path)
    inside = tuple(place if place.endswith(".py") else place + "/" for place in places)
    return {test: row for test, row in rows.items() if test.startswith(inside)}
