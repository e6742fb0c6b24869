# mypy: disallow-untyped-defs=False
"""The heaviest of a budget too large for one program: sixteen candidates for the last key in each pass.

A pass counts, span by span, how many keys reach each candidate; the best candidate is the base of the next
pass, at a sixteenth of the distance. Eight passes find a key of 32 bits. No atomics: the result repeats.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import launch

NEVER = tl.constexpr(-(2**31))
ALWAYS = tl.constexpr(2**31 - 1)
SPAN = 8192  # keys that one program counts
STEP = 128  # keys that it holds at once


@triton.jit(do_not_specialize=["shift", "L", "spans"])
def span_kernel(
    keys_ptr, base_ptr, counts_ptr, masses_ptr, L, spans, shift, SPAN: tl.constexpr, STEP: tl.constexpr,
    BY_MASS: tl.constexpr,
):  # fmt: skip
    """How many keys of one span reach each of 16 candidates, and the mass of the free ones among them."""
    pool, span = (tl.program_id(0) // spans).to(tl.int64), (tl.program_id(0) % spans).to(tl.int64)
    digits = tl.arange(0, 16)
    wide = tl.load(base_ptr + pool) + (digits.to(tl.int64) << shift)
    candidates, exist = wide.to(tl.int32), wide <= ALWAYS
    counts = tl.zeros([16], tl.int32)
    masses = tl.zeros([16], tl.float64)
    for start in range(span * SPAN, min((span + 1) * SPAN, L), STEP):
        places = start + tl.arange(0, STEP)
        keys = tl.load(keys_ptr + pool * L + places, mask=places < L, other=NEVER)
        reach = (keys[:, None] >= candidates[None, :]) & exist[None, :] & (places < L)[:, None]
        counts += tl.sum(reach.to(tl.int32), 0)
        if BY_MASS:
            free = (keys > NEVER) & (keys < ALWAYS)
            mass = tl.where(free, keys, 0).to(tl.float32, bitcast=True).to(tl.float64)
            masses += tl.sum(tl.where(reach, mass[:, None], 0.0), 0)
    place = tl.program_id(0).to(tl.int64) * 16 + digits
    tl.store(counts_ptr + place, counts)
    if BY_MASS:
        tl.store(masses_ptr + place, masses)


@triton.jit(do_not_specialize=["shift", "spans"])
def narrow_kernel(base_ptr, partial_ptr, goal_ptr, spans, shift, STEP: tl.constexpr):
    """Move a pool's base to the largest candidate that reaches the goal."""
    pool = tl.program_id(0).to(tl.int64)
    digits = tl.arange(0, 16)
    goal = tl.load(goal_ptr + pool)
    total = tl.zeros([16], goal.dtype)
    for start in range(0, spans, STEP):
        span = start + tl.arange(0, STEP)
        places = (pool * spans + span)[:, None] * 16 + digits[None, :]
        total += tl.sum(tl.load(partial_ptr + places, mask=(span < spans)[:, None], other=0), 0)
    digit = tl.max(tl.where(total >= goal, digits, 0), 0).to(tl.int64)
    tl.store(base_ptr + pool, tl.load(base_ptr + pool) + (digit << shift))


@triton.jit(do_not_specialize=["L", "spans"])
def mark_kernel(
    keys_ptr, last_ptr, left_ptr, keep_ptr, L, spans, SPAN: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """Keep what is above the last key, and of what equals it the first `left` of this span."""
    pool, span = (tl.program_id(0) // spans).to(tl.int64), (tl.program_id(0) % spans).to(tl.int64)
    last = tl.load(last_ptr + pool).to(tl.int32)
    left = tl.load(left_ptr + tl.program_id(0))
    for start in range(span * SPAN, min((span + 1) * SPAN, L), STEP):
        places = start + tl.arange(0, STEP)
        keys = tl.load(keys_ptr + pool * L + places, mask=places < L, other=NEVER)
        equal = ((keys == last) & (places < L)).to(tl.int32)
        keep = (keys > last) | ((equal > 0) & (tl.cumsum(equal, 0) <= left))
        tl.store(keep_ptr + pool * L + places, keep, mask=places < L)
        left -= tl.sum(equal, 0)


def keep_of_pools(
    keys: Tensor, totals: Tensor, lowest: Tensor, highest: Tensor, share: float | None
) -> Tensor:
    """Bool [P, L]: the heaviest of each row of `keys` int32 [P, L].

    Args:
        totals: float64 [P, 2], a pool's mass and what of it is kept anyway.
        lowest, highest, share: int32 [P] bounds of how many are kept, and the share of the mass to reach.
    """
    pools, length = keys.shape
    always = torch.full((pools,), ALWAYS.value, dtype=torch.int64, device=keys.device)
    available = _spans(keys, always.new_full((pools,), NEVER.value + 1), 0, mass=False)[0][..., 0].sum(dim=1)
    required = _spans(keys, always, 0, mass=False)[0][..., 0].sum(dim=1)
    count = highest
    if share is not None:
        goal = share * totals[:, 0] - totals[:, 1]
        last = _search(keys, goal, mass=True)
        counts, masses = _spans(keys, last, 0, mass=True)
        above, mass_above = counts[..., 1].sum(dim=1), masses[..., 1].sum(dim=1)
        value = last.int().view(torch.float32).double()
        more = torch.where(value > 0, ((goal - mass_above) / value).ceil(), 1.0).clamp(0, length)
        count = torch.where(goal > 0, above + more.int(), 0).clamp(lowest, highest)
    count = count.clamp(min=required).clamp(max=available).int()
    last = _search(keys, count, mass=False)
    counts, _ = _spans(keys, last, 0, mass=False)
    reaching, above = counts[..., 0], counts[..., 1]
    equal = reaching - above
    before = equal.cumsum(dim=1, dtype=torch.int32) - equal
    left = (count - above.sum(dim=1))[:, None] - before
    keep = torch.empty_like(keys, dtype=torch.bool)
    left = left.int().contiguous()
    launch(mark_kernel, left.numel(), keys, last, left, keep, length, left.shape[1], SPAN=SPAN, STEP=STEP)
    return keep


def _search(keys: Tensor, goal: Tensor, mass: bool) -> Tensor:
    """Int64 [P]: the largest key for which the count, or the mass, of the keys from it on reaches `goal`."""
    base = torch.full(keys.shape[:1], NEVER.value, dtype=torch.int64, device=keys.device)
    for shift in range(28, -1, -4):
        counts, masses = _spans(keys, base, shift, mass)
        partial = masses if mass else counts
        spans = counts.shape[1]
        launch(narrow_kernel, keys.shape[0], base, partial, goal.contiguous(), spans, shift, STEP=128)
    return base


def _spans(keys: Tensor, base: Tensor, shift: int, mass: bool) -> tuple[Tensor, Tensor]:
    """Int32 and float64 [P, spans, 16]: what reaches `base` [P] and the 15 candidates above it."""
    spans = triton.cdiv(keys.shape[1], SPAN)
    counts = torch.empty(keys.shape[0], spans, 16, dtype=torch.int32, device=keys.device)
    masses = torch.empty_like(counts, dtype=torch.float64) if mass else counts
    launch(
        span_kernel, keys.shape[0] * spans, keys, base, counts, masses, keys.shape[1], spans, shift,
        SPAN=SPAN, STEP=STEP, BY_MASS=mass,
    )  # fmt: skip
    return counts, masses
