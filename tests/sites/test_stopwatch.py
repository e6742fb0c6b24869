"""Calls on a GPU are timed on the stream of their own device; the events are stand-ins."""

import torch
from pytest import approx

from accel.sites.stopwatch import Stopwatch


class Event:
    """One millisecond passes from record to record."""

    records = 0

    def __init__(self, enable_timing):
        self.done = False

    def record(self, stream):
        Event.records += 1
        self.stream, self.time = stream, Event.records

    def synchronize(self):
        self.done = True

    def elapsed_time(self, end):
        assert end.done and end.stream == self.stream
        return end.time - self.time


def test_each_call_is_timed_on_its_own_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    stopwatch = Stopwatch()
    for device in ("cuda:0", "cuda:1", "cuda:1"):
        with stopwatch.running(torch.device(device)):
            pass
    assert stopwatch.seconds == approx(0.003) and stopwatch.seconds == approx(0.003)
