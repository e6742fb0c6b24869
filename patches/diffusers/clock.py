"""Clock: which denoising step a forward belongs to."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from accel.patches.diffusers.branches import Branches

TRAIN_TIMESTEPS = 1000
MOST_PASSES = 16  # forwards that stand at one place of a schedule; more are no guidance but runs of their own


@dataclass(frozen=True)
class Tick:
    """Where one forward stands: see `Context` for the fields."""

    step: int | None
    n_steps: int | None
    progress: float
    generation: int
    turn: int
    branch: int


class Clock:
    """Reads the step from the pipeline's scheduler, which keeps it as a Python number: no device sync.

    Without a scheduler, or with one that does not count (diffusion forcing keeps a scheduler for every
    frame), progress is told from the noise level, `1 - timestep / 1000`, at the price of one device read
    for each forward; `step` is then none.

    Args:
        pipeline: the pipeline whose scheduler counts; held weakly, asked anew at every forward, so that a
            scheduler swapped after acceleration is seen. Once it is gone, the scheduler it had goes on
            counting for as long as another pipeline has it. Its copies and pickles know no pipeline.
        scheduler: the scheduler itself, for a bare model.
    """

    def __init__(self, pipeline: Any = None, scheduler: Any = None) -> None:
        self._pipeline = weakref.ref(pipeline) if pipeline is not None else None
        self._scheduler = scheduler
        self._inherited: Any = None
        self._last: tuple[Any, float] | None = None
        self._last_timesteps: Any = None
        self._branches = Branches()
        self._generation = 0
        self._turn = -1

    def read(self, timestep: Tensor, text: Tensor | None = None) -> Tick:
        """The tick of a forward that was called with `timestep` and, to tell its branch by, its text."""
        step, n_steps, progress = self._position(timestep)
        if self._is_new(progress) or (
            self._last == (step, progress) and self._branches.passes >= MOST_PASSES
        ):
            self._generation += 1
            self._last, self._turn = None, -1
            self._branches = Branches()
        if self._last != (step, progress):
            self._branches.begin_step()
            self._turn += 1
        self._last = (step, progress)
        return Tick(step, n_steps, progress, self._generation, self._turn, self._branches.number(text))

    def _is_new(self, progress: float) -> bool:
        """Whether a generation begins: where a schedule is set anew, or where progress falls back."""
        timesteps, before = getattr(self._current_scheduler(), "timesteps", None), self._last_timesteps
        self._last_timesteps = timesteps
        return timesteps is not before or (self._last is not None and progress < self._last[1])

    @property
    def source(self) -> str:
        """What the steps are told by, in words."""
        return "noise level" if self._current_scheduler() is None else "scheduler"

    def _position(self, timestep: Tensor) -> tuple[int | None, int | None, float]:
        scheduler = self._current_scheduler()
        timesteps = getattr(scheduler, "timesteps", None)
        if timesteps is not None and len(timesteps):
            step = self._scheduler_step(scheduler, timesteps, timestep)
            if step is not None and step < len(timesteps):
                return step, len(timesteps), step / len(timesteps)
        # On the meta device, where memory is planned, there is no level to read.
        level = 1.0 if timestep.is_meta else float(timestep.max()) / TRAIN_TIMESTEPS
        return None, None, min(max(1 - level, 0.0), 1.0)

    def _current_scheduler(self) -> Any:
        if self._pipeline is None:
            return self._scheduler
        pipeline = self._pipeline()
        if pipeline is None:
            return self._inherited() if self._inherited is not None else None
        scheduler = getattr(pipeline, "scheduler", None)
        self._inherited = None if scheduler is None else weakref.ref(scheduler)
        return scheduler

    @staticmethod
    def _scheduler_step(scheduler: Any, timesteps: Tensor, timestep: Tensor) -> int | None:
        step = getattr(scheduler, "step_index", None)
        if step is None:
            step = getattr(scheduler, "begin_index", None)
        if step is None and float(timestep.max()) == float(timesteps[0]):
            # A scheduler counts from its first `step` call on, unless the pipeline told it where to begin.
            step = 0
        return step

    def __getstate__(self) -> dict[str, Any]:
        unknown = dict.fromkeys(("_pipeline", "_inherited", "_last", "_last_timesteps"))
        return {**self.__dict__, **unknown, "_branches": Branches()}
