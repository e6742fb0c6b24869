"""Noise: how noisy the latents are at each step of a schedule."""

from __future__ import annotations

from functools import cached_property
from typing import Any

TRAIN_TIMESTEPS = 1000


class Noise:
    """The levels of a scheduler's timesteps, timestep / 1000; read from the device once, when asked for.

    Args:
        timesteps: a tensor, or a list of numbers.
    """

    def __init__(self, timesteps: Any) -> None:
        self._timesteps = timesteps

    def level(self, step: int) -> float:
        """In [0, 1]; 0 after the last step."""
        return self._levels[step] if step < len(self._levels) else 0.0

    @cached_property
    def _levels(self) -> tuple[float, ...]:
        values = getattr(self._timesteps, "tolist", lambda: list(self._timesteps))()
        return tuple(min(max(float(value) / TRAIN_TIMESTEPS, 0.0), 1.0) for value in values)
