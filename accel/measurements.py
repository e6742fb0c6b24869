"""Measurements: numbers that are found out once for a machine and kept in a file of the user's cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from accel.kernels.verdicts import verdict_file

_KNOWN: dict[str, float] = {}


def measured_once(key: str, measure: Callable[[], float]) -> float:
    """What was measured under a key, by this process or an earlier one; else measured now."""
    if key not in _KNOWN:
        _KNOWN.update(_read_file())
    if key not in _KNOWN:
        _KNOWN[key] = measure()
        _write_file()
    return _KNOWN[key]


def cache_file() -> Path:
    """Where they are kept; deleting the file measures anew."""
    return verdict_file().with_name("crossover.json")


def _read_file() -> dict[str, float]:
    try:
        data = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    items = data.items() if isinstance(data, dict) else ()
    return {key: number for key, number in items if isinstance(number, float)}


def _write_file() -> None:
    """Whole or not at all; a cache that cannot be written is measured again by the next process."""
    path = cache_file()
    draft = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({**_read_file(), **_KNOWN}, indent=1), encoding="utf-8")
        draft.replace(path)
