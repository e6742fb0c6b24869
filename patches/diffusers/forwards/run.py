"""Run: the generations of one request, one after another, and what the current one keeps."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from accel.patches.diffusers.forwards.branches import Branches
from accel.patches.noise import TRAIN_TIMESTEPS, Noise

MOST_PASSES = 16  # forwards that share one place of a schedule; more than this are separate runs

_TICKING = threading.Lock()


@dataclass(frozen=True)
class Tick:
    """Where one forward is: see `Context` for the fields, and `Forward` for what its generation keeps."""

    step: int | None
    n_steps: int | None
    progress: float
    generation: int
    turn: int
    branch: int
    noise: Noise | None = field(default=None, compare=False)
    guided: bool | None = None
    kept: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Position:
    """A place in a schedule; step and n_steps are None where nothing counts."""

    step: int | None
    n_steps: int | None
    progress: float

    @classmethod
    def read(cls, scheduler: Any, timestep: Tensor) -> Position:
        """Where a forward is: by its scheduler's count, or by the noise level where nothing counts."""
        timesteps = getattr(scheduler, "timesteps", None)
        if timesteps is not None and len(timesteps):
            step = step_of(scheduler, timesteps, timestep)
            if step is not None and step < len(timesteps):
                return cls(step, len(timesteps), step / len(timesteps))
        # On the meta device, where memory is planned, there is no level to read.
        level = 1.0 if timestep.is_meta else float(timestep.max()) / TRAIN_TIMESTEPS
        return cls(None, None, min(max(1 - level, 0.0), 1.0))


def step_of(scheduler: Any, timesteps: Tensor, timestep: Tensor) -> int | None:
    """The step a scheduler is at; None where it does not count."""
    step = getattr(scheduler, "step_index", None)
    if step is None:
        step = getattr(scheduler, "begin_index", None)
    if step is None and float(timestep.max()) == float(timesteps[0]):
        # A scheduler counts from its first `step` call on, unless the pipeline set where to begin.
        step = 0
    return step


class Run:
    """What one request was last seen doing. Two requests never share one.

    Args:
        generations: numbers generations, for all runs of a clock.
    """

    def __init__(self, generations: itertools.count[int]) -> None:
        self._generations = generations
        self._timesteps: Any = None
        self._noise: Noise | None = None
        self._begin()

    def _begin(self) -> None:
        self._generation = next(self._generations)
        self._last: Position | None = None
        self._turn = -1
        self._guided: bool | None = None
        self._branches = Branches()
        self._kept: dict[Hashable, Any] = {}

    def tick(self, position: Position, timesteps: Any, text: Tensor | None, prepares: bool = False) -> Tick:
        """The tick of the next forward.

        Args:
            position: where it is in the schedule.
            timesteps: the scheduler's schedule, if it has one; another object is another generation.
            text: distinguishes the passes of guidance.
            prepares: it is no pass of guidance.
        """
        # The passes of one request may run in two threads.
        with _TICKING:
            if self._last is not None and self._starts_again(self._last, position, timesteps):
                self._begin()
            if self._last != position:
                if self._last is not None:
                    self._guided = self._branches.passes > 1
                self._branches.begin_step()
                self._turn += 1
            if timesteps is not self._timesteps:
                self._noise = Noise(timesteps)
            self._last, self._timesteps = position, timesteps
            return Tick(
                position.step,
                position.n_steps,
                position.progress,
                self._generation,
                self._turn,
                0 if prepares else self._branches.number(text),
                self._noise if position.step is not None else None,
                self._guided,
                self._kept,
            )

    def _starts_again(self, last: Position, position: Position, timesteps: Any) -> bool:
        crowded = last == position and self._branches.passes >= MOST_PASSES
        return crowded or timesteps is not self._timesteps or position.progress < last.progress
