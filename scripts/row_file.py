"""RowFile: measurements on disk as soon as they are made, so that a crash, a hang or a kill costs only one.

A measurement is announced before it begins. Run again on the same file, a script makes only those that it
has not announced yet; one that was announced and has no result took its process with it.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
POISONED = 75  # exit status: a CUDA error after which this process can measure nothing more
POISON = ("CUDA error", "Triton Error [CUDA]", "AcceleratorError", "illegal memory access", "launch failure")


class RowFile:
    """The file at `path`, one JSON object a line, each with its `key`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.announced = {row["key"] for row in _lines(path)}

    def begin(self, key: str, limit: float) -> bool:
        """Announce a measurement, unless it was announced before: False then. If it takes longer than `limit`
        seconds, a deadlocked kernel say, this process ends."""
        if key in self.announced:
            return False
        self.announced.add(key)
        self._write({"key": key, "begun": True})
        faulthandler.dump_traceback_later(limit, exit=True)
        return True

    def end(self, key: str, row: Row) -> None:
        """Write the result of what was begun last."""
        faulthandler.cancel_dump_traceback_later()
        self._write({"key": key, **row})

    def add(self, key: str, measure: Callable[[], Row], limit: float = 120) -> Row | None:
        """The result of `measure`, once written; none if it was announced before or raised, which is written
        as `failed`. A CUDA error ends the process with `POISONED`."""
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

    def _write(self, row: Row) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def is_poison(text: str) -> bool:
    """Whether an error says that the CUDA context of its process is lost."""
    return any(sign in text for sign in POISON)


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """The results in a file, the last of each key, and the keys of what was begun and has none."""
    results: dict[str, Row] = {}
    lost: dict[str, None] = {}
    for row in _lines(path):
        if row.get("begun"):
            lost[row["key"]] = None
        else:
            lost.pop(row["key"], None)
            results[row["key"]] = row
    return list(results.values()), list(lost)


def _lines(path: Path) -> list[Row]:
    """Whole lines only: the last one may still be in the writing."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
