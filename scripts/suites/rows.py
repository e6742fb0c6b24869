"""Where the rows of the libraries' tests are, and how to read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.row_file import read_lines


def row_file(out: Path, library: str, group: str, mode: str) -> Path:
    """The file of one group in one mode; its folder is made."""
    path = out.resolve() / mode / f"{library}, {group}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of one file by test, if there is one."""
    return {row["test"]: row for row in read_lines(path)}
