"""Residual: what sparse attention left out at the last dense step, carried along to the sparse ones after it.

R = O - O_s, dense output minus that over the chosen blocks, is captured at a dense step for nothing: it
runs over the blocks and over their complement, and both are joined by their log-sum-exp. In the sparse steps
that follow, the same blocks are used and R is added. Two things keep it right as it ages:

* the values move with the timestep's modulation; R follows them by the least-squares map of V then to V now;
* guidance multiplies the difference of the branches' errors; so the difference of their residuals fades, and
  only what they have in common stays.

A residual belongs to its generation, and never serves other shapes, grids, adapters or blocks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from accel.kernels.attention.operation import attention_with_lse, block_sparse_attention
from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.recipe.compensate import Compensate
from accel.sites.grid.call import Call
from accel.sites.grid.layout_cache import PackedLayout, served
from accel.sites.grid.layout_cache import kept as packed
from accel.sites.grid.residual_store import Stored, stored

SAMPLED_TOKENS = 1024
RIDGE = 1e-3  # of the mean variance of the values

CAPTURED, APPLIED, TOO_OLD, MISSING = "captured", "applied", "too old", "none captured"


@dataclass(frozen=True)
class Captured:
    """One branch's residual.

    Args:
        values: the residual; None where the first branch's serves all.
        sample: [B, H, n, D], some tokens' values less their mean, and `inverse`, [B, H, D, D], that of their
            regularised Gram matrix; None without transport.
        context: of the step it was captured in.
        key: what the call has to share with the one it was captured in.
    """

    layout: BlockLayout | PackedLayout
    values: Stored | None
    sample: Tensor | None
    inverse: Tensor | None
    context: Context
    key: Hashable

    @property
    def nbytes(self) -> int:
        extra = [tensor.nbytes for tensor in (self.sample, self.inverse) if tensor is not None]
        return sum(extra) + (0 if self.values is None else self.values.nbytes)


@dataclass
class Branches:
    """The residuals of one site, and of one of its calls, in one generation.

    Attributes:
        captured: by branch of guidance.
        seen: the turn in which each branch last came.
        transport: the turn and the key of the map [B, H, D, D] that was fitted in it, and the map, for all
            branches of that key. A pass may have fewer samples than the first.
    """

    captured: dict[int, Captured] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    transport: tuple[int, Hashable, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        return sum(captured.nbytes for captured in self.captured.values())

    def first(self, key: Hashable) -> Captured | None:
        """What the first branch captured for this key."""
        first = self.captured.get(0)
        return None if first is None or first.key != key else first


class Residual:
    """Compensation at one site.

    Args:
        settings: from the recipe.

    Attributes:
        counts: how often a residual was captured, applied, or not there to apply, by why.
        nbytes: the most that one generation of this site has kept.
    """

    def __init__(self, settings: Compensate) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self.nbytes = 0

    def capture(self, qkv: tuple[Tensor, ...], layout: BlockLayout, call: Call) -> Tensor:
        """The dense output [B, H, M, D], its residual kept.

        Args:
            qkv: [B, H, N, D] each, in the layout's order.
            layout: the blocks of the sparse steps to come.
        """
        (q, k, v), context, key = qkv, call.context, call.key
        branches = self.branches(call)
        # A failure half-way must not leave the residual of a step before for blocks that are gone.
        branches.captured.pop(context.branch, None)
        sparse, residual = split(q, k, v, layout)
        dense = sparse + residual
        if not self.settings.branch_decay and context.branch > 0 and branches.first(key) is not None:
            # That of the first branch serves this one too.
            values = sample = inverse = None
        else:
            values = stored(residual, self.settings.store, q.dtype, self.settings.device)
            sample, inverse = self._fit(v, q.shape[1])
        branches.captured[context.branch] = Captured(packed(layout), values, sample, inverse, context, key)
        branches.seen[context.branch] = context.turn
        self.counts[CAPTURED] += 1
        self.nbytes = max(self.nbytes, branches.nbytes)
        return dense.to(q.dtype)

    def layout(self, call: Call) -> BlockLayout | None:
        """The blocks that a residual is kept for, while it may be added; None without a residual."""
        captured = self._current(self.branches(call), call)
        return None if captured is None else served(captured.layout)

    def shared_layout(self, call: Call) -> BlockLayout | None:
        """The blocks that the first branch captures in this step; None if it has not yet."""
        first, context = self.branches(call).first(call.key), call.context
        if context.branch == 0 or first is None or first.context.turn != context.turn:
            return None
        return served(first.layout)

    def apply(self, out: Tensor, v: Tensor, call: Call) -> Tensor:
        """`out` [B, H, M, D] over the blocks that `layout` gave, with the residual added."""
        branches, context = self.branches(call), call.context
        captured = self._current(branches, call, count=True)
        if captured is None:
            return out
        branches.seen[context.branch] = context.turn
        transport = self._transport(branches, captured, v, out.shape[1], context)
        parts = self._parts(branches, context)
        residual = sum(share * values.times(transport, out.device) for share, values in parts)
        assert isinstance(residual, Tensor)
        grid = context.grid
        if len(parts) > 1 and grid is not None and grid.tokens > grid.video_tokens:
            # The texts of two branches have nothing in common, row by row.
            assert captured.values is not None
            own = captured.values.times(transport, out.device)
            video = slice(grid.video_start, grid.video_start + grid.video_tokens)
            own[:, :, video] = residual[:, :, video]
            residual = own
        self.counts[APPLIED] += 1
        return (out.float() + residual).to(out.dtype)

    def branches(self, call: Call) -> Branches:
        return call.kept.setdefault((id(self), call.number), Branches())

    def _current(self, branches: Branches, call: Call, count: bool = False) -> Captured | None:
        """What was captured for this branch, if it may be added now."""
        context, key = call.context, call.key
        captured = branches.captured.get(context.branch)
        reason = None
        if captured is None or captured.key != key or captured.context.generation != context.generation:
            reason = MISSING
        elif context.progress - captured.context.progress > self.settings.max_progress + 1e-9:
            reason = TOO_OLD
        elif captured.values is None and branches.first(key) is None:
            reason = MISSING
        if reason is None:
            return captured
        self.counts[reason] += count
        return None

    def _parts(self, branches: Branches, context: Context) -> list[tuple[float, Stored]]:
        """The residuals that add up to this branch's, with their weights.

        With guidance under way these are all branches' mean, and what is left of the difference to it.
        """
        own = branches.captured[context.branch]
        if own.values is None:
            first = branches.captured[0].values
            assert first is not None
            return [(1.0, first)]
        peers = {
            number: captured.values
            for number, captured in branches.captured.items()
            if captured.values is not None
            and captured.key == own.key
            and captured.context.turn == own.context.turn
            and branches.seen[number] >= context.turn - 1
        }
        if len(peers) < 2 or not self.settings.branch_decay:
            return [(1.0, own.values)]
        age = context.progress - own.context.progress
        left = math.exp(-age / self.settings.branch_decay)
        each = (1 - left) / len(peers)
        shares = {number: each + left * (number == context.branch) for number in peers}
        return [(shares[number], values) for number, values in peers.items()]

    def _fit(self, v: Tensor, heads: int) -> tuple[Tensor | None, Tensor | None]:
        if not self.settings.transport:
            return None, None
        sample = sampled(v, heads)
        gram = sample.transpose(2, 3) @ sample
        scale = gram.diagonal(dim1=2, dim2=3).mean(dim=2)[..., None, None]
        eye = torch.eye(gram.shape[3], device=v.device)
        # Values that are all equal have a Gram matrix of zeros, and no inverse without a little more.
        inverse = torch.linalg.inv(gram + (RIDGE * scale + 1e-12) * eye)
        return sample.to(v.dtype), inverse

    def _transport(
        self, branches: Branches, own: Captured, v: Tensor, heads: int, context: Context
    ) -> Tensor | None:
        """[B, H, D, D]: values at capture -> values now; fitted once a step, for all branches."""
        captured = own if own.sample is not None else branches.first(own.key) or own
        if captured.sample is None or captured.inverse is None:
            return None
        known, fitted_for = branches.transport, (context.turn, own.key)
        if known is None or known[:2] != fitted_for or context.branch == 0:
            then, now = captured.sample.float(), sampled(v, heads)
            known = branches.transport = (*fitted_for, captured.inverse @ (then.transpose(2, 3) @ now))
        return known[2]


def split(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> tuple[Tensor, Tensor]:
    """Attention as the layout has it, and what dense attention adds to it; float32 [B, H, M, D] each.

    The work of dense attention; with a tail, that of the tail's attention more.
    """
    listed = attention_with_lse(q, k, v, replace(layout, tail=False))
    others = attention_with_lse(q, k, v, layout.complement)
    # A row that sees no key of its blocks is all of the others', and the other way round.
    share = torch.sigmoid(others[1] - listed[1]).nan_to_num(nan=0.0)[..., None]
    listed_out = listed[0].float()
    residual = share * (others[0].float() - listed_out)
    if not layout.tail:
        return listed_out, residual
    with_tail = block_sparse_attention(q, k, v, layout).float()
    return with_tail, listed_out + residual - with_tail


def sampled(v: Tensor, heads: int) -> Tensor:
    """Float32 [B, H, n, D]: about a thousand tokens' values less their mean, query heads' own."""
    some = v[:, :, :: max(1, v.shape[2] // SAMPLED_TOKENS)].float()
    some = some - some.mean(dim=2, keepdim=True)
    return some.repeat_interleave(heads // v.shape[1], dim=1) if heads != v.shape[1] else some
