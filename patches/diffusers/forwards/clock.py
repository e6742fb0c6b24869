"""Clock: which denoising step a forward belongs to, counted for each request by its own scheduler."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from types import FrameType
from typing import Any

from torch import Tensor, nn

from accel.patches.diffusers.forwards.caller import calling_scheduler, scheduler_of_loop
from accel.patches.diffusers.forwards.run import Position, Run, Tick

MOST_LOOPS = 8  # concurrent runs of one thread where no scheduler distinguishes them


class Clock:
    """Reads the step from the request's scheduler, which keeps it as a Python number: no device sync.

    The scheduler belongs to the pipeline that runs the forward, found on the call stack. Where no pipeline
    does, it is the one that the user's loop holds, or else the one that was named when the model was
    accelerated. Without any, or with one that does not count (diffusion forcing has a scheduler for every
    frame), progress is taken from the noise level, `1 - timestep / 1000`, at the price of one device read for
    each forward; `step` is then None.

    Args:
        pipeline: the pipeline that was accelerated; held weakly, asked at every forward, so that a scheduler
            swapped after acceleration is seen. Once it is gone, its scheduler continues to count for as
            long as another pipeline has it. Copies and pickles of the clock know no pipeline.
        scheduler: the scheduler itself, for a bare model.
    """

    def __init__(self, pipeline: Any = None, scheduler: Any = None) -> None:
        self._pipeline = weakref.ref(pipeline) if pipeline is not None else None
        self._scheduler = scheduler
        self._counts = pipeline is not None or scheduler is not None
        self._idle: Any = None
        self._inherited: Any = None
        self._forget_requests()

    def _forget_requests(self) -> None:
        self._latest: str | None = None
        self._generations = itertools.count()
        self._runs: dict[int, tuple[weakref.ref[Any], Run]] = {}
        self._loops = threading.local()

    def read(
        self,
        timestep: Tensor,
        text: Tensor | None = None,
        model: nn.Module | None = None,
        stack: list[FrameType] | None = None,
        size: Hashable = None,
        prepares: bool = False,
    ) -> Tick:
        """The tick of a forward.

        Args:
            timestep: what the forward was called with.
            text: its text, to distinguish the passes of guidance.
            model: whose forward it is, and `stack`, the frames that called it, to find whose request it is.
            size: of its tensors; where nothing else distinguishes requests, this does.
            prepares: it fills a cache, and is no pass of guidance.
        """
        named = self._named_scheduler()
        found = calling_scheduler(model, stack or [])
        if found is None and self._counts:
            found = scheduler_of_loop(named, stack or [], timestep)
        scheduler = named if found is None else found
        self._latest = source_of(scheduler)
        run = self._run_of_loop(size) if found is None else self._run_of(found, size)
        position, timesteps = Position.read(scheduler, timestep), getattr(scheduler, "timesteps", None)
        return run.tick(position, timesteps, text, prepares)

    def _run_of(self, scheduler: Any, size: Hashable) -> Run:
        """The run that a scheduler counts."""
        key, runs = id(scheduler), self._runs
        known = runs.get(key)
        if known is not None and known[0]() is scheduler:
            return known[1]
        try:
            alive = weakref.ref(scheduler, lambda _: runs.pop(key, None))
        except TypeError:
            return self._run_of_loop(size)
        # Atomic: two threads that begin with one scheduler get one run.
        return runs.setdefault(key, (alive, Run(self._generations)))[1]

    def _run_of_loop(self, size: Hashable) -> Run:
        """The run of a thread's loop over tensors of that size."""
        runs = vars(self._loops).setdefault("runs", OrderedDict())
        if size not in runs:
            runs[size] = Run(self._generations)
        runs.move_to_end(size)
        while len(runs) > MOST_LOOPS:
            runs.popitem(last=False)
        return runs[size]

    @property
    def source(self) -> str:
        """What the last forward's step was counted by, in words; before any, what would be asked."""
        return self._latest or source_of(self._named_scheduler())

    def _named_scheduler(self) -> Any:
        if self._pipeline is None:
            # Nobody steps the copy of a scheduler that came along with a model, until its schedule is set.
            idle = self._idle is not None and self._scheduler.timesteps is self._idle
            return None if idle else self._scheduler
        pipeline = self._pipeline()
        if pipeline is None:
            return self._inherited() if self._inherited is not None else None
        scheduler = getattr(pipeline, "scheduler", None)
        self._inherited = None if scheduler is None else as_weak(scheduler)
        return scheduler

    def __getstate__(self) -> dict[str, Any]:
        return {"_scheduler": self._scheduler, "_counts": self._counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(scheduler=state["_scheduler"])  # type: ignore[misc]
        self._counts, self._idle = state["_counts"], getattr(self._scheduler, "timesteps", None)


def source_of(scheduler: Any) -> str:
    return "noise level" if scheduler is None else "scheduler"


def as_weak(thing: Any) -> Any:
    """Something that gives an object when called, and None once it is gone if that can be known."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing
