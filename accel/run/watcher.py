"""Watcher: is notified of runs: which one begins, each step, and its result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from accel.sites.stopwatch import Stopwatch

WARM_UP = "warm-up"


class Watcher:
    """Does nothing; subclasses show progress."""

    def begins(self, name: str, number: int, of: int) -> None:
        """The run of that name, number `number` of `of`, begins."""

    def step(self, step: int, latents: Tensor) -> None:
        """A denoising step is done, counted from 0; its latents are on the CPU."""

    def made(self, name: str, run: Any) -> None:
        """The run of that name is over; `run` is a `Generated`."""


class Timed(Watcher):
    """Passes steps on to a watcher, and knows how long it looked at them: that is no part of the run."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self._looking = Stopwatch()

    def step(self, step: int, latents: Tensor) -> None:
        with self._looking.running(torch.device("cpu")):
            self.watcher.step(step, latents)

    @property
    def seconds(self) -> float:
        return self._looking.seconds
