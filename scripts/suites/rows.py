"""Where the rows of the libraries' tests are, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def row_file(out: Path, library: str, group: str, mode: str) -> Path:
    """The file of one group in one mode; its folder is made."""
    path = out.resolve() / mode / f"{library}, {group}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of one file by test; nothing where there is no file."""
    if not path.exists():
        return {}
    return {row["test"]: row for row in map(json.loads, path.read_text().splitlines())}
