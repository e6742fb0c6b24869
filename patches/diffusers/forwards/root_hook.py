"""RootHook: makes a Forward of each forward of a model, from outside any compiled block."""

from __future__ import annotations

import threading
import weakref
from types import FrameType
from typing import Any

from torch import nn

from accel.patches.context import Context
from accel.patches.diffusers.context_parallel import ContextParallel, context_parallel_of
from accel.patches.diffusers.family import family_of
from accel.patches.diffusers.forwards.branches import text_of
from accel.patches.diffusers.forwards.caller import call_stack, calling_pipeline
from accel.patches.diffusers.forwards.clock import Clock
from accel.patches.diffusers.forwards.forward import Forward, begin, end, innermost
from accel.patches.diffusers.forwards.repeats import Repeats
from accel.patches.diffusers.forwards.run import Tick
from accel.patches.diffusers.reading import named_arguments
from accel.patches.hook import ModelHook
from accel.patches.observers import exports_by_tracing, recorder
from accel.patches.untraced import say_why_not_whole, untraced

_COUNTING = threading.Lock()
GUIDED = "guided"


def guided(model: nn.Module, stack: list[FrameType], tick: Tick) -> bool | None:
    """Whether a generation is guided: what its pipeline says, or the passes of the step before.

    A pipeline may put both passes into one batch, so what it says counts first; it is asked once.
    """
    if GUIDED not in tick.kept:
        says = getattr(calling_pipeline(model, stack), "do_classifier_free_guidance", None)
        tick.kept[GUIDED] = says if isinstance(says, bool) else None
    says = tick.kept[GUIDED]
    return tick.guided if says is None else says


class RootHook(ModelHook):
    """The hooks on one diffusion model. What they know of a forward belongs to that forward: see `Forward`.

    Args:
        clock: knows the denoising step; models of one pipeline share it.
        owner: what attached the hook (a `Patch`); it is notified of finished forwards and of failures here.
    """

    def __init__(self, clock: Clock, owner: Any = None) -> None:
        super().__init__(owner)
        self.clock = clock
        self._parallel: ContextParallel | None = None

    @property
    def step_source(self) -> str:
        """What the denoising steps are counted by, in words; empty if there are no steps."""
        return self.clock.source

    @property
    def forward(self) -> Forward | None:
        """The forward under way in this thread or task; None outside one."""
        return innermost(self)

    def attach(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(self.before, with_kwargs=True)
        model.register_forward_hook(self.after, always_call=True)

    def before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        # What is closed to the compiler is refused by `torch.export`, which traces hooks.
        if not exports_by_tracing():
            say_why_not_whole()
            self._begin(model, args, kwargs)

    @untraced
    def _begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        stack: list[FrameType] = []
        try:
            stack = call_stack()
            forward = self._read(model, args, kwargs, stack)
        except Exception as error:
            forward = Forward(dense=self._failed("reading a forward", error))
        begin(self, forward, len(stack))

    def _read(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], stack: list[FrameType]) -> Forward:
        if reason := recorder():
            if self.owner is not None:
                self.owner.left_alone(self, reason)
            return Forward(dense=reason)
        family = family_of(model)
        assert family is not None
        kwargs = named_arguments(model, args, kwargs)
        try:
            grid = family.read_grid(model, args, kwargs)
            timestep = family.read_timestep(args, kwargs)
            prepares = family.is_preparation(kwargs)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Whatever is odd about the input, the model itself is the one to judge it.
            return Forward(dense=f"grid not readable ({type(error).__name__}: {error})")
        size = grid, timestep.shape
        tick = self.clock.read(timestep, text_of(kwargs), model, stack, size, prepares)
        repeats = Repeats.of(kwargs, tick.turn, tick.kept) if family.text_free else None
        context = Context(
            grid,
            tick.step,
            tick.n_steps,
            tick.progress,
            tick.noise,
            tick.generation,
            tick.turn,
            tick.branch,
            text_padding=family.text_padding,
            repeats=repeats is not None and repeats.now,
            repeated=repeats is not None and repeats.expected(tick.step is not None),
            guided=guided(model, stack, tick),
        )
        parallel = self._parallel_of(model)
        reason = parallel.unsupported(grid) if parallel is not None else None
        return Forward(context, reason, parallel, tick.kept, weakref.ref(model))

    def _parallel_of(self, model: Any) -> ContextParallel | None:
        """What is known already, unless `enable_parallelism` was called since."""
        config = getattr(getattr(model, "_parallel_config", None), "context_parallel_config", None)
        known = self._parallel
        if known is None or known.config is not config:
            self._parallel = known = context_parallel_of(model)
        return known

    def after(self, model: nn.Module, args: tuple, output: Any) -> None:
        if not exports_by_tracing():
            self._end(model, output)

    @untraced
    def _end(self, model: nn.Module, output: Any) -> None:
        forward = end(self)
        with _COUNTING:
            self.forwards += 1
        if output is None or forward is None or self.owner is None:
            return
        try:
            self.owner.after_forward(self, model, forward.context)
        except Exception as error:
            self._failed("looking back at a forward", error)

    def _failed(self, doing: str, error: Exception) -> str:
        """The reason why a forward is dense after an error of ours; raises the error if there is no owner."""
        if self.owner is None:
            raise error
        return self.owner.hook_failed(doing, error)
