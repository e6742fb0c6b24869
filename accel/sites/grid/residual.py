"""Residual: what sparse attention left out at the last dense step, carried along to the sparse ones after it.

R = O - O_s, dense output minus that over the chosen blocks, is captured at a dense step for nothing: it
runs over the blocks and over their complement, and both are joined by their log-sum-exp. In the sparse steps
that follow, the same blocks are used and R is added. Two things keep it right as it ages:

* the values move with the timestep's modulation; R follows them by the least-squares map of V then to V now;
* guidance multiplies the difference of the branches' errors; so the difference of their residuals fades, and
  only what they have in common stays.

A residual belongs to its generation, and never serves other shapes, grids, adapters or blocks. It goes when
it is too old or the last step is done. What does not fit beside the model on its GPU is kept in host memory,
and where memory runs out all the same, nothing is added.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from accel.kernels.attention.operation import attention_with_lse, block_sparse_attention
from accel.kernels.layout.boxes import Boxes
from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.recipe.compensate import Compensate
from accel.sites.faults import ran_out_of_memory
from accel.sites.grid.call import Call
from accel.sites.grid.layout_cache import PackedLayout, served
from accel.sites.grid.layout_cache import kept as packed
from accel.sites.grid.padding import real_tokens
from accel.sites.grid.residual_store import ALL, Stored, add, stored, stored_bytes
from accel.sites.grid.room import room_on
from accel.sites.grid.value_map import Sample, sample_bytes

CAPTURED, APPLIED, TOO_OLD, MISSING = "captured", "applied", "too old", "none captured"
ON_HOST, NO_MEMORY = "in host memory", "out of memory"


@dataclass(frozen=True)
class Captured:
    """One branch's residual.

    Args:
        layout: None once it is too old, like all that takes memory.
        values: the residual; None where the first branch's serves all.
        sample: of the values; None without transport, and where the first branch's serves all.
        context: of the step it was captured in.
        key: what the call has to share with the one it was captured in.
        lost: memory ran out for it: its blocks serve on, since other processes may count on them, and nothing
            is added.
    """

    layout: BlockLayout | PackedLayout | None
    values: Stored | None
    sample: Sample | None
    context: Context
    key: Hashable
    lost: bool = False

    @property
    def released(self) -> Captured:
        """What is left to say that it was there."""
        return replace(self, layout=None, values=None, sample=None)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.values, self.sample) if part is not None)


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
        (q, k, v), branches, context = qkv, self.branches(call), call.context
        # A failure half-way must not leave the residual of a step before for blocks that are gone.
        branches.captured.pop(context.branch, None)
        _free_idle(call, branches)
        try:
            sparse, residual = split(q, k, v, layout)
        except Exception as error:
            if ran_out_of_memory(error):
                call.kept[self._gave_up] = True
            raise
        dense = sparse.add_(residual).to(q.dtype)
        try:
            branches.captured[context.branch] = self._captured(residual, qkv, layout, call)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            lost = Captured(packed(layout), None, None, context, call.key, lost=True)
            branches.captured[context.branch] = lost
            self.counts[NO_MEMORY] += 1
        else:
            self.counts[CAPTURED] += 1
            self.nbytes = max(self.nbytes, branches.nbytes)
        branches.seen[context.branch] = context.turn
        return dense

    def captures(self, kept: dict[Hashable, Any]) -> bool:
        """Whether a generation's dense calls are still tried in two parts: not once memory ran out for it."""
        return self._gave_up not in kept

    def layout(self, call: Call) -> BlockLayout | None:
        """The blocks that a residual is kept for, while it may be added; None without a residual."""
        captured = self._current(self.branches(call), call)
        return None if captured is None or captured.layout is None else served(captured.layout)

    def shared_layout(self, call: Call) -> BlockLayout | None:
        """The blocks that the first branch captures in this step; None if it has not yet."""
        first, context = self.branches(call).first(call.key), call.context
        if context.branch == 0 or first is None or first.context.turn != context.turn:
            return None
        return None if first.layout is None else served(first.layout)

    def apply(self, out: Tensor, v: Tensor, call: Call) -> Tensor:
        """`out` [B, H, M, D] over the blocks that `layout` gave, with the residual added in place."""
        branches, context = self.branches(call), call.context
        captured = self._current(branches, call, count=True)
        if _is_last(context):
            _free_idle(call, branches)
        if captured is None:
            return out
        branches.seen[context.branch] = context.turn
        if captured.lost or (captured.values is None and branches.captured[0].lost):
            return out
        try:
            transport = self._transport(branches, captured, v, context)
            for rows, parts in self._by_rows(branches, captured, context):
                add(out, parts, transport, rows)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            branches.captured = {
                branch: replace(each, values=None, sample=None, lost=True)
                for branch, each in branches.captured.items()
            }
            self.counts[NO_MEMORY] += 1
            return out
        self.counts[APPLIED] += 1
        if _is_last(context) and context.branch == max(branches.captured):
            # What comes next, such as a VAE, may need the memory.
            branches.captured.clear()
        return out

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
        elif captured.layout is None or (captured.values is None and branches.first(key) is None):
            reason = MISSING
        if reason is None:
            return captured
        if count:
            self.counts[reason] += 1
            if captured is not None and reason == TOO_OLD:
                branches.captured[context.branch] = captured.released
        return None

    @property
    def _gave_up(self) -> Hashable:
        return id(self), NO_MEMORY

    def _captured(
        self, residual: Tensor, qkv: tuple[Tensor, ...], layout: BlockLayout, call: Call
    ) -> Captured:
        """What is kept of a residual, on its device if there is room."""
        (q, _, v), context, key = qkv, call.context, call.key
        first = self.branches(call).first(key) if context.branch > 0 else None
        if first is not None and first.context.turn != context.turn:
            first = None
        if first is not None and not self.settings.branch_decay:
            return Captured(packed(layout), None, None, context, key)
        batch, heads, tokens, dim = residual.shape
        needed = batch * stored_bytes(self.settings.store, tokens, heads, dim, q.element_size())
        if first is None and self.settings.transport:
            needed += batch * sample_bytes(tokens, heads, dim, q.element_size())
        host = self.settings.device == "cpu"
        if not host and not self._has_room(needed, call, q.device):
            host = True
            self.counts[ON_HOST] += 1
        if context.kv_lengths is not None:
            # What padding holds must not be among what the others are stored by.
            residual = residual.masked_fill(~real_tokens(residual, context.kv_lengths), 0.0)
        values = stored(residual, self.settings.store, q.dtype, "cpu" if host else "same")
        # The values of the passes of a step move alike, so one map serves all.
        sample = None
        if first is None and self.settings.transport:
            sample = Sample.of(v, heads, context.kv_lengths)
        return Captured(packed(layout), values, sample, context, key)

    def _has_room(self, needed: int, call: Call, device: torch.device) -> bool:
        kept = sum(each.nbytes for each in call.kept.values() if isinstance(each, Branches))
        return kept + needed <= room_on(device, call.kept)

    def _by_rows(
        self, branches: Branches, captured: Captured, context: Context
    ) -> list[tuple[slice, list[tuple[float, Stored]]]]:
        """The residuals to add, and to which rows.

        The texts of two branches have nothing in common, row by row.
        """
        parts, grid = self._parts(branches, context), context.grid
        if len(parts) == 1 or grid is None or grid.tokens == grid.video_tokens:
            return [(ALL, parts)]
        assert captured.values is not None
        own: list[tuple[float, Stored]] = [(1.0, captured.values)]
        first, last = grid.video_start, grid.video_start + grid.video_tokens
        return [(slice(first), own), (slice(first, last), parts), (slice(last, None), own)]

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

    def _transport(self, branches: Branches, own: Captured, v: Tensor, context: Context) -> Tensor | None:
        """[B, H, D, D]: values at capture -> values now; fitted once a step, for all branches."""
        captured = own if own.sample is not None else branches.first(own.key) or own
        if captured.sample is None:
            return None
        known, fitted_for = branches.transport, (context.turn, own.key)
        if known is None or known[:2] != fitted_for or context.branch == 0:
            known = branches.transport = (*fitted_for, captured.sample.map_to(v, context.kv_lengths))
        return known[2]


def _free_idle(call: Call, own: Branches) -> None:
    """Free the residuals of sites that are not called any more: of the first of two experts."""
    before = call.context.turn - 1
    for kept in call.kept.values():
        others = isinstance(kept, Branches) and kept is not own
        if others and kept.seen and max(kept.seen.values()) < before:
            kept.captured = {branch: each.released for branch, each in kept.captured.items()}


def _is_last(context: Context) -> bool:
    return context.step is not None and context.n_steps is not None and context.step + 1 >= context.n_steps


def split(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> tuple[Tensor, Tensor]:
    """Attention as the layout has it, and what dense attention adds to it; float32 [B, H, M, D] each.

    The work of dense attention; with a tail or with windows inside the blocks, that of the layout more.
    """
    # What a window hides inside a listed block is in no complement.
    windowed = isinstance(layout.visibility, Boxes)
    whole = replace(layout, tail=False, visibility=None if windowed else layout.visibility)
    listed = attention_with_lse(q, k, v, whole)
    others = attention_with_lse(q, k, v, layout.complement)
    # A row that sees no key of its blocks is all of the others', and the other way round.
    share = torch.sigmoid(others[1] - listed[1]).nan_to_num(nan=0.0)[..., None]
    listed_out = listed[0].float()
    # In place: these are of the size of the output, in float32.
    residual = others[0].float().sub_(listed_out).mul_(share)
    if not (layout.tail or windowed):
        return listed_out, residual
    sparse = block_sparse_attention(q, k, v, layout).float()
    return sparse, listed_out + residual - sparse
