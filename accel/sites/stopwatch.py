"""Stopwatch: adds up the time of calls, on the CPU or as CUDA events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_ADDING = threading.Lock()


class Stopwatch:
    """Total seconds spent inside `running()`. CUDA work is timed by events, read only when asked."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def add(self, begin: Any, end: Any) -> None:
        """Add the time between two marks."""
        if isinstance(end, float):
            with _ADDING:
                self._seconds += end - begin
        else:
            self._events.append((begin, end))

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Time a block, whatever other threads time; one that raises is not counted."""
        begin = mark(device)
        yield
        self.add(begin, mark(device))

    @property
    def seconds(self) -> float:
        """Waits for the device."""
        if self._events:
            for begin, end in self._events:
                self._seconds += seconds_between(begin, end)
            self._events.clear()
        return self._seconds


def mark(device: torch.device) -> Any:
    """This moment on a device: seconds, or an event of CUDA."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    # The stream of the call's device, which need not be the current one.
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Seconds from one mark to another. Waits for the device."""
    if isinstance(end, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000
