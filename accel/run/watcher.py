"""Watcher: hears how runs get on: which one begins, each step, and what it made."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

WARM_UP = "warm-up"


class Watcher:
    """Does nothing; subclasses show progress."""

    def begins(self, name: str, number: int, of: int) -> None:
        """The run of that name, number `number` of `of`, begins."""

    def step(self, step: int, latents: Tensor) -> None:
        """A denoising step is done, counted from 0; its latents are on the CPU."""

    def made(self, name: str, run: Any) -> None:
        """The run of that name is over; `run` is a `Generated`."""


class NamedBars(Watcher):
    """Puts the run's name, and how long the others will take, in front of the pipeline's own progress bar.

    Args:
        pipe: whose bar; `close` gives it its own text back.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.before = dict(getattr(pipe, "_progress_bar_config", {}))
        self.longest = 0.0

    def begins(self, name: str, number: int, of: int) -> None:
        after = (of - number) * self.longest
        rest = f", then {after:.0f} s at most" if after else ""
        self._set({**self.before, "desc": f"{number} of {of}: {name}{rest}"})
        self.began = time.perf_counter()

    def made(self, name: str, run: Any) -> None:
        if name != WARM_UP:
            self.longest = max(self.longest, time.perf_counter() - self.began)

    def close(self) -> None:
        self._set(self.before)

    def _set(self, config: dict[str, Any]) -> None:
        if hasattr(self.pipe, "set_progress_bar_config"):
            self.pipe.set_progress_bar_config(**config)
