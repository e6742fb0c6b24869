"""Times of calls on a device, interleaved so that clocks and other processes affect all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Call = Callable[[], Any]
SHORT = 50.0  # milliseconds; longer calls vary less and are repeated less often


def medians(calls: list[Call], device: torch.device, rounds: int | None = None) -> list[float]:
    """Milliseconds of each call, the median over rounds of all of them, 9 by default or 5 if they are long.

    The calls must have run before: nothing is warmed up here.
    """
    times = [[milliseconds(call, device) for call in calls]]
    rounds = rounds or (9 if max(times[0]) < SHORT else 5)
    times += [[milliseconds(call, device) for call in calls] for _ in range(rounds - 1)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def milliseconds(call: Call, device: torch.device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000
