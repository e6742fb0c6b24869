"""Rows of measurements on disk: as JSON lines while they are measured, as one JSON table when published.

RowFile announces a measurement before it begins. Run again on the same file, a script makes only those not
announced yet; one that was announced and has no result ended its process. A crash or a hang costs one row.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
POISONED = 75  # exit status: a CUDA error after which this process can measure nothing more
POISON = ("CUDA error", "Triton Error [CUDA]", "AcceleratorError", "illegal memory access", "launch failure")


class RowFile:
    """The file at `path`, one JSON object a line, each with its `key`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.announced = {row["key"] for row in read_lines(path)}

    def begin(self, key: str, limit: float) -> bool:
        """Announce a measurement; False if it was announced before. This process ends if it takes longer than
        `limit` seconds, as a deadlocked kernel does."""
        if key in self.announced:
            return False
        self.announced.add(key)
        append_line(self.path, {"key": key, "begun": True})
        faulthandler.dump_traceback_later(limit, exit=True)
        return True

    def end(self, key: str, row: Row) -> None:
        """Write the result of the measurement begun last."""
        faulthandler.cancel_dump_traceback_later()
        append_line(self.path, {"key": key, **row})

    def add(self, key: str, measure: Callable[[], Row], limit: float = 120) -> Row | None:
        """The result of `measure`, once written. None if it was announced before, or if it raised, which is
        written as `failed`. A CUDA error ends the process with `POISONED`."""
        if not self.begin(key, limit):
            return None
        try:
            row = measure()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:1000]
            self.end(key, {"failed": reason})
            print(f"{key}: {reason}", flush=True)
            if is_poison(reason):
                sys.exit(POISONED)
            return None
        self.end(key, row)
        print(f"{key}: {row}", flush=True)
        return row


def is_poison(text: str) -> bool:
    """Whether an error means that the CUDA context of its process is lost."""
    return any(sign in text for sign in POISON)


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """The results in a file, the last of each key, and the keys that were begun and have no result."""
    results: dict[str, Row] = {}
    lost: dict[str, None] = {}
    for row in read_lines(path):
        if row.get("begun"):
            lost[row["key"]] = None
        else:
            lost.pop(row["key"], None)
            results[row["key"]] = row
    return list(results.values()), list(lost)


def append_line(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_lines(path: Path) -> list[Row]:
    """The rows of a file of JSON lines, if there is one, but not a last line that is still being written."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write_table(path: Path, rows: Iterable[Row], head: Row | None = None) -> None:
    """Write one JSON object: `head`, then the rows, each on its line; as lists if `head` names "columns"."""
    # Rows are written where little is installed: before the GPU check knows what is missing.
    from accel.files import whole_file

    head = head or {}
    lines = ",\n".join(json.dumps(list(row.values()) if "columns" in head else row) for row in rows)
    facts = json.dumps(head, indent=1)[:-2] + "," if head else "{"
    with whole_file(path) as unfinished:
        unfinished.write_text(f'{facts}\n "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def read_table(path: Path) -> list[Row]:
    """The rows that `write_table` wrote; none if the file does not exist."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    if "columns" not in found:
        return found["rows"]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
