"""Measurements: numbers that are found out once for a machine and kept in a file of the user's cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from accel.files import write_whole
from accel.kernels.check_results import entries, results_file

_KNOWN: dict[str, float] = {}


def measured_once(key: str, measure: Callable[[], float]) -> float:
    """What was measured under a key, by this process or an earlier one; else measured now."""
    if key not in _KNOWN:
        _KNOWN.update(entries(cache_file(), float))
    if key not in _KNOWN:
        _KNOWN[key] = measure()
        # A cache that cannot be written is measured again by the next process.
        with suppress(OSError):
            cache_file().parent.mkdir(parents=True, exist_ok=True)
            write_whole(cache_file(), json.dumps({**entries(cache_file(), float), **_KNOWN}, indent=1))
    return _KNOWN[key]


def cache_file() -> Path:
    """Where they are kept; deleting the file measures again."""
    return results_file().with_name("crossover.json")
