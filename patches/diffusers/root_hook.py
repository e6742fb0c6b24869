"""RootHook: keeps the Context of a model's current forward, from outside any compiled block.

Plain `torch.nn.Module` hooks: they survive `copy.deepcopy` and `pickle`, which diffusers' hook registry does
not (it rebinds `forward` to the module that was hooked first), and removing them leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
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
from accel.patches.diffusers.token_permutation import TokenPermutation
from accel.patches.gradients import is_differentiated
from accel.patches.own_hooks import owner_of, remove_hooks_of


class RootHook:
    """The hooks on one model.

    Args:
        clock: tells the denoising step; models of one pipeline share it.
        owner: whoever attached the hook, for those who find the hook on a model.
        permutation: puts the model's tokens in another order; none leaves them.

    Attributes:
        current: the context of the forward under way; none outside one.
        grid_error: why the current forward's grid could not be read; none if it could.
        parallel: how the model's tokens are spread over processes; none where this one has them all.
        forwards: forwards that finished since the hook was attached.
        differentiated: whether derivatives of the forward under way are taken unseen by its tensors.
    """

    def __init__(self, clock: Clock, owner: Any = None, permutation: TokenPermutation | None = None) -> None:
        self.clock = clock
        self.owner = owner
        self.permutation = permutation
        self.current: Context | None = None
        self.grid_error: str | None = None
        self._model: nn.Module | None = None
        self._adapters: Hashable = None
        self.parallel: ContextParallel | None = None
        self.forwards = 0
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
        if self.permutation is not None:
            self.permutation.attach(model)

    def detach(self, model: nn.Module) -> None:
        """Remove this hook's entries; does nothing when they are gone."""
        if self.permutation is not None:
            self.permutation.detach(model)
        # `root_hook_of` finds what an interrupt has left by the hook that goes last.
        remove_hooks_of(self, model)

    @torch.compiler.disable
    def before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        family = family_of(model)
        assert family is not None
        self._model, self._adapters = model, None
        self.differentiated = is_differentiated(model)
        self.parallel = self._read_parallel(model)
        self.current = self._read(family, model, args, kwargs)
        if self.permutation is not None:
            if self.permutation.applies(model, self.current.grid):
                self.current = replace(self.current, permuted=True)
            self.permutation.context = self.current

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
        if self.permutation is not None:
            self.permutation.context = None
        self.forwards += 1
        if output is not None and context is not None and self.owner is not None:
            self.owner.after_forward(model, context)


def root_hook_of(model: nn.Module) -> RootHook | None:
    """The hook that is attached to a model, if any."""
    for hook in model._forward_pre_hooks.values():
        owner = owner_of(hook)
        if isinstance(owner, RootHook):
            return owner
    return None
