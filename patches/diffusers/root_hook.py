"""RootHook: keeps the Context of a model's current forward, from outside any compiled block."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from accel.patches.context import Context, HeadShare
from accel.patches.diffusers.adapters import adapter_state
from accel.patches.diffusers.branches import text_of
from accel.patches.diffusers.clock import Clock
from accel.patches.diffusers.context_parallel import ContextParallel, context_parallel_of
from accel.patches.diffusers.family import Family, family_of
from accel.patches.diffusers.reading import named_arguments
from accel.patches.hook import ModelHook
from accel.patches.observers import is_differentiated


class RootHook(ModelHook):
    """The hooks on one diffusion model.

    Args:
        clock: tells the denoising step; models of one pipeline share it.
        owner: whoever attached the hook; is told of finished forwards.

    Attributes:
        current: the context of the forward under way; none outside one.
        grid_error: why the current forward's grid could not be read; none if it could.
        parallel: how the model's tokens are spread over processes; none where this one has them all.
        differentiated: whether derivatives of the forward under way are taken unseen by its tensors.
    """

    def __init__(self, clock: Clock, owner: Any = None) -> None:
        super().__init__(owner)
        self.clock = clock
        self.current: Context | None = None
        self.grid_error: str | None = None
        self._model: nn.Module | None = None
        self._adapters: Hashable = None
        self.parallel: ContextParallel | None = None
        self.differentiated = False

    @property
    def step_source(self) -> str:
        """What the denoising steps are told by, in words; empty where there are none."""
        return self.clock.source

    @property
    def adapters(self) -> Hashable:
        """What the LoRA adapters do in the forward under way; read when it is first asked for."""
        if self._adapters is None and self._model is not None:
            self._adapters = adapter_state(self._model)
        return self._adapters

    def heads(self, total: int) -> HeadShare | None:
        """This process's share of a layer's heads in the forward under way; none if it has them all."""
        return None if self.parallel is None else self.parallel.heads(total)

    def arrival(self, device: torch.device) -> Tensor | None:
        """Where each token of the grid stands in an attention call; none where it stands in its place."""
        if self.parallel is None or self.current is None or self.current.grid is None:
            return None
        return self.parallel.arrival(self.current.grid, device)

    def attach(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(self.before, with_kwargs=True)
        model.register_forward_hook(self.after, always_call=True)

    @torch.compiler.disable
    def before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        family = family_of(model)
        assert family is not None
        self._model, self._adapters = model, None
        self.differentiated = is_differentiated(model)
        self.parallel = self._read_parallel(model)
        self.current = self._read(family, model, args, kwargs)

    def _read_parallel(self, model: Any) -> ContextParallel | None:
        """What is known already, unless `enable_parallelism` was called since."""
        config = getattr(getattr(model, "_parallel_config", None), "context_parallel_config", None)
        if self.parallel is not None and self.parallel.config is config:
            return self.parallel
        return context_parallel_of(model)

    def _read(self, family: Family, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Context:
        self.grid_error = None
        kwargs = named_arguments(model, args, kwargs)
        try:
            grid = family.read_grid(model, args, kwargs)
            timestep = family.read_timestep(args, kwargs)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Whatever is odd about the input, the model itself is the one to judge it.
            self.grid_error = f"{type(error).__name__}: {error}"
            return Context()
        tick = self.clock.read(timestep, text_of(kwargs))
        return Context(
            grid,
            tick.step,
            tick.n_steps,
            tick.progress,
            tick.generation,
            tick.turn,
            tick.branch,
            text_padding=family.text_padding,
        )

    @torch.compiler.disable
    def after(self, model: nn.Module, args: tuple, output: Any) -> None:
        context, self.current = self.current, None
        self._model = None
        self.forwards += 1
        if output is not None and context is not None and self.owner is not None:
            self.owner.after_forward(model, context)
