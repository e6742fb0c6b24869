"""Forward: what is known of one forward of a model while it runs, in the thread or task that runs it.

Two requests may run one transformer at once, so nothing of this is kept on the model or its hook. A stack in
a context variable holds it: threads, tasks and greenlets have their own stacks, and a forward inside a
forward is on top.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from accel.patches.context import Context
from accel.patches.diffusers.context_parallel import ContextParallel
from accel.patches.diffusers.forwards.adapters import adapter_names, adapter_state
from accel.patches.head_share import HeadShare


@dataclass(eq=False)
class Forward:
    """One forward.

    Args:
        context: where it is in the schedule, and its grid.
        dense: why every attention call of it runs dense; None if calls may be sparse.
        parallel: how the model's tokens are spread over processes; None where this one has them all.
        kept: what its generation keeps between forwards, by owner; the next generation starts with nothing.
        model: the model, if there is one; held weakly, to read its adapters.
    """

    context: Context = field(default_factory=Context)
    dense: str | None = None
    parallel: ContextParallel | None = None
    kept: dict[Hashable, Any] = field(default_factory=dict)
    model: weakref.ref[nn.Module] | None = None
    _calls: Counter[int] = field(default_factory=Counter)
    _adapters: Hashable = None

    @property
    def adapters(self) -> Hashable:
        """What the LoRA adapters do in this forward; read when it is first asked for."""
        model = None if self.model is None else self.model()
        if self._adapters is None and model is not None:
            self._adapters = adapter_state(model)
        return self._adapters

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The names of the LoRA adapters in use."""
        model = None if self.model is None else self.model()
        return () if model is None else adapter_names(model)

    def heads(self, total: int) -> HeadShare | None:
        """This process's share of a layer's heads; None if it has them all."""
        return None if self.parallel is None else self.parallel.heads(total)

    def arrival(self, device: torch.device) -> Tensor | None:
        """Where each token of the grid is in an attention call; None where each is in its place."""
        if self.parallel is None or self.context.grid is None:
            return None
        return self.parallel.arrival(self.context.grid, device)

    def call_of(self, site: object) -> int:
        """Which of the forward's calls to a site this one is, from 0: some models make one a sample."""
        number = self._calls[id(site)]
        self._calls[id(site)] += 1
        return number


OUTSIDE = "outside the model's forward"


@dataclass(frozen=True, eq=False)
class _Entry:
    """A forward on the stack: whose it is, and how deep in the call stack it began."""

    owner: weakref.ref[Any]
    forward: Forward
    depth: int


_UNDER_WAY: ContextVar[tuple[_Entry, ...]] = ContextVar("accel_forwards", default=())


def begin(owner: Any, forward: Forward, depth: int) -> None:
    """Put a forward on top. What began as deep in the call stack, or deeper, was interrupted and is over:
    PyTorch calls no hook after a KeyboardInterrupt."""
    below = tuple(entry for entry in _UNDER_WAY.get() if entry.depth < depth)
    _UNDER_WAY.set((*below, _Entry(weakref.ref(owner), forward, depth)))


def end(owner: Any) -> Forward | None:
    """Pop an owner's innermost forward, and whatever was left on top of it; None if it has no forward."""
    entries = _UNDER_WAY.get()
    for place in reversed(range(len(entries))):
        if entries[place].owner() is owner:
            _UNDER_WAY.set(entries[:place])
            return entries[place].forward
    return None


def innermost(owner: Any) -> Forward | None:
    """An owner's forward that is under way here; None outside one."""
    for entry in reversed(_UNDER_WAY.get()):
        if entry.owner() is owner:
            return entry.forward
    return None
