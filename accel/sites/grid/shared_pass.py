"""SharedPass: one attention output for both passes of guidance, at a site that no text has reached yet.

There both passes have the same queries, keys and values, so the first one's output is the second's, bit for
bit, in dense steps and sparse ones. It is kept from one forward to the next and given away once.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accel.patches.context import Context

NEVER = "never"
ROWS = 16


@dataclass(frozen=True)
class _Kept:
    """What a pass leaves behind: its output, whose it is, and some of its queries."""

    key: Hashable
    sample: Tensor
    out: Tensor


@dataclass(frozen=True)
class SharedPass:
    """Of one call.

    Args:
        context: `repeats` says whether the forward was given the inputs of the one before.
        key: what else two calls must have in common: adapters, the grid.
        kept: what the generation keeps.
        place: where in there.
    """

    context: Context
    key: Hashable
    kept: dict[Hashable, Any]
    place: Hashable

    def take(self, q: Tensor) -> Tensor | None:
        """The output [B, M, H, D] of the pass before, if this call must have the same; None if not.

        A few of the queries [B, M, H, D] are compared, which waits for the device once a step: a hook may
        perturb one pass alone. If they differ, the generation shares nothing any more.
        """
        before = self.kept.get(self.place) if self.context.repeats else None
        if not isinstance(before, _Kept) or before.key != self._key(q):
            return None
        same = torch.equal(before.sample, some_of(q))
        self.kept[self.place] = None if same else NEVER
        return before.out if same else None

    def keep(self, out: Tensor, q: Tensor) -> None:
        """Keep a pass's output for the next one, if there will be one."""
        if self.kept.get(self.place) == NEVER:
            return
        # A copy: compiled code may reuse the memory of what it was handed.
        left = _Kept(self._key(q), some_of(q), out.clone()) if self.context.repeated else None
        self.kept[self.place] = left

    def _key(self, q: Tensor) -> Hashable:
        return self.context.turn, q.shape, q.dtype, q.device, self.key


def some_of(q: Tensor) -> Tensor:
    """A few of the queries [B, M, H, D], a copy."""
    return q[:, :: max(1, q.shape[1] // ROWS)].clone()
