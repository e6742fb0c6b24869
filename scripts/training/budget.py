"""How long a training stage lasts, in minutes or in steps, and what its learning rate is on the way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A stage's length: a number of minutes of training, or, where runs must be repeatable, of steps."""

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError(f"give minutes or steps, got minutes={self.minutes} and steps={self.steps}")
        if not (self.minutes or self.steps or 0) > 0:
            raise ValueError(f"a budget must be above 0, got minutes={self.minutes}, steps={self.steps}")

    def progress(self, step: int, seconds: float) -> float:
        """The fraction spent, from 0; 1 or more when the stage is over."""
        return step / self.steps if self.steps else seconds / (60 * self.minutes)


@dataclass(frozen=True)
class Schedule:
    """Learning rate: up over `warmup` steps to `peak`, and down to 0 over the last `decay` of the budget."""

    peak: float
    decay: float
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.peak <= 0 or not 0 < self.decay <= 1 or self.warmup < 0:
            raise ValueError(f"need peak > 0, decay in (0, 1] and warmup >= 0, got {self}")

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of step number `step` (from 0) when the fraction `progress` has been spent."""
        rising = min(1.0, (step + 1) / (self.warmup + 1))
        return self.peak * rising * min(1.0, max(0.0, 1 - progress) / self.decay)
