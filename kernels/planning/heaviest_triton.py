# mypy: disallow-untyped-defs=False
"""keep_heaviest and keep_outstanding in Triton: a row by one program, larger budgets in a few passes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import launch
from accel.kernels.planning.budgets import FIRST_POOLED_AXIS, LEAST_VARIANCE, Budget, bounds
from accel.kernels.planning.heaviest_pool import keep_of_pools

NEVER = tl.constexpr(-(2**31))
ALWAYS = tl.constexpr(2**31 - 1)
LONGEST_ROW = 8192  # columns that one program holds in registers
_jit_by_row = triton.jit(
    do_not_specialize=["beta", "must_b", "must_h", "must_m", "may_b", "may_h", "may_m", "heads", "rows", "N"],
    do_not_specialize_on_alignment=["must_ptr", "may_ptr"],
)


@triton.jit
def ordered(number):
    """Int32 in the order of the numbers; minus zero is zero, NaN is less than any number."""
    # Minus zero has other bits than zero.
    number = tl.where(number == number, tl.where(number == 0.0, 0.0, number), float("-inf"))
    bits = number.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ ALWAYS, bits)


@triton.jit
def nth_largest(keys, count):
    """The largest key that `count` of the keys reach."""
    last = tl.full([], NEVER, tl.int64)
    for bit in range(32):
        higher = last + (tl.full([], 1, tl.int64) << (31 - bit))
        reached = tl.sum((keys >= higher.to(tl.int32)).to(tl.int32), 0)
        last = tl.where(reached >= count, higher, last)
    return last.to(tl.int32)


@triton.jit
def with_first(above, equal, count):
    """What is `above`, and the first of what is `equal`, so that there are `count`."""
    left = count - tl.sum(above.to(tl.int32), 0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= left))


@triton.jit
def _row_keys(
    mass_ptr, must_ptr, may_ptr, must_b, must_h, must_m, must_n, may_b, may_h, may_m, may_n, heads, rows, N,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """This program's row, its columns and keys [BLOCK], and its masses with 0 for what may not be kept."""
    row = tl.program_id(0).to(tl.int64)
    b, h, m = row // (heads * rows), row // rows % heads, row % rows
    columns = tl.arange(0, BLOCK)
    inside = columns < N
    may = inside
    if may_ptr is not None:
        may_ptr += b * may_b + h * may_h + m * may_m
        may = tl.load(may_ptr + columns * may_n, mask=inside, other=0) != 0
    must_ptr += b * must_b + h * must_h + m * must_m
    must = tl.load(must_ptr + columns * must_n, mask=inside, other=0) != 0
    mass = tl.load(mass_ptr + row * N + columns, mask=inside, other=0.0)
    keys = tl.where(may, ordered(mass), NEVER)
    best = tl.min(tl.where(keys == tl.max(keys, 0), columns, BLOCK), 0)
    keys = tl.where(may & (must | (columns == best)), ALWAYS, keys)
    return row, columns, keys, tl.where(may & (mass == mass), mass, 0.0)


@_jit_by_row
def row_keys_kernel(
    mass_ptr, must_ptr, may_ptr, keys_ptr, totals_ptr, must_b, must_h, must_m, must_n, may_b, may_h, may_m,
    may_n, heads, rows, N, BLOCK: tl.constexpr,
):  # fmt: skip
    """A row's keys, and float64 [2]: its mass, and the mass in it that is kept anyway."""
    row, columns, keys, mass = _row_keys(
        mass_ptr, must_ptr, may_ptr, must_b, must_h, must_m, must_n, may_b, may_h, may_m, may_n, heads, rows,
        N, BLOCK,
    )  # fmt: skip
    tl.store(keys_ptr + row * N + columns, keys, mask=columns < N)
    wide = mass.to(tl.float64)
    tl.store(totals_ptr + row * 2, tl.sum(wide, 0))
    tl.store(totals_ptr + row * 2 + 1, tl.sum(tl.where(keys == ALWAYS, wide, 0.0), 0))


@_jit_by_row
def keep_rows_kernel(
    mass_ptr, must_ptr, may_ptr, keep_ptr, lowest_ptr, highest_ptr, share_ptr, must_b, must_h, must_m, must_n,
    may_b, may_h, may_m, may_n, heads, rows, N, BY_SHARE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Which blocks of one row are kept; the row is its own budget."""
    row, columns, keys, mass = _row_keys(
        mass_ptr, must_ptr, may_ptr, must_b, must_h, must_m, must_n, may_b, may_h, may_m, may_n, heads, rows,
        N, BLOCK,
    )  # fmt: skip
    required = tl.sum((keys == ALWAYS).to(tl.int32), 0)
    count = tl.load(highest_ptr + row)
    if BY_SHARE:
        wide = mass.to(tl.float64)
        goal = tl.load(share_ptr) * tl.sum(wide, 0) - tl.sum(tl.where(keys == ALWAYS, wide, 0.0), 0)
        wide = tl.where(keys == ALWAYS, 0.0, wide)
        last = tl.full([], NEVER, tl.int64)
        for bit in range(32):
            higher = last + (tl.full([], 1, tl.int64) << (31 - bit))
            reached = tl.sum(tl.where(keys >= higher.to(tl.int32), wide, 0.0), 0)
            last = tl.where(reached >= goal, higher, last)
        above = keys > last.to(tl.int32)
        equal = (keys == last.to(tl.int32)) & (keys < ALWAYS)
        value = tl.max(tl.where(equal, wide, 0.0), 0)
        missing = goal - tl.sum(tl.where(above, wide, 0.0), 0)
        more = tl.where(value > 0.0, tl.ceil(missing / value), 1.0)
        free = tl.sum((above & (keys < ALWAYS)).to(tl.int32), 0)
        needed = tl.where(goal > 0.0, required + free + more.to(tl.int32), 0)
        count = tl.minimum(tl.maximum(needed, tl.load(lowest_ptr + row)), count)
    available = tl.sum((keys > NEVER).to(tl.int32), 0)
    count = tl.minimum(tl.maximum(count, required), available)
    last = nth_largest(keys, count)
    keep = with_first(keys > last, (keys == last) & (columns < N), count)
    tl.store(keep_ptr + row * N + columns, keep, mask=columns < N)


@_jit_by_row
def outstanding_kernel(
    mass_ptr, must_ptr, may_ptr, keep_ptr, beta, must_b, must_h, must_m, must_n, may_b, may_h, may_m, may_n,
    heads, rows, N, TINY: tl.constexpr, LEAST_VARIANCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Which blocks of one row are kept: those whose log mass is beta deviations above the row's mean."""
    row, columns, keys, mass = _row_keys(
        mass_ptr, must_ptr, may_ptr, must_b, must_h, must_m, must_n, may_b, may_h, may_m, may_n, heads, rows,
        N, BLOCK,
    )  # fmt: skip
    may = keys > NEVER
    number = tl.maximum(tl.sum(may.to(tl.float32), 0), 1.0)
    logs = tl.log(tl.maximum(mass, TINY))
    mean = tl.sum(tl.where(may, logs, 0.0), 0) / number
    apart = tl.where(may, logs - mean, 0.0)
    deviation = tl.sqrt(tl.sum(apart * apart, 0) / number + LEAST_VARIANCE)
    keep = (keys == ALWAYS) | (may & (logs > mean + beta * deviation))
    tl.store(keep_ptr + row * N + columns, keep, mask=columns < N)


def keep_heaviest(
    mass: Tensor,
    must: Tensor,
    may: Tensor | None,
    budget: Budget,
    density: float,
    min_density: float = 0.0,
    share: float | None = None,
    least: float = 0.0,
) -> Tensor:
    """What `heaviest_blocks.keep_heaviest` computes, without waiting for the device."""
    lowest, highest = bounds(mass, may, budget, density, min_density, least)
    mass, columns = mass.contiguous(), mass.shape[3]
    # Triton hands floats over as float32, and the search is done in float64.
    goal_share = None if share is None else mass.new_full((), share, dtype=torch.float64)
    scene = (mass, must, may)
    programs, sizes, options = _rows_of(mass, must, may)
    if budget == "row" and columns <= LONGEST_ROW:
        keep = torch.empty_like(mass, dtype=torch.bool)
        limits = (lowest.contiguous(), highest.contiguous(), goal_share)
        by_share = share is not None
        launch(keep_rows_kernel, programs, *scene, keep, *limits, *sizes, BY_SHARE=by_share, **options)
        return keep
    keys = torch.empty_like(mass, dtype=torch.int32)
    totals = mass.new_empty(*mass.shape[:3], 2, dtype=torch.float64)
    launch(row_keys_kernel, programs, *scene, keys, totals, *sizes, **options)
    pools = keys.flatten(FIRST_POOLED_AXIS[budget]).flatten(0, -2)
    totals = totals.reshape(pools.shape[0], -1, 2).sum(dim=1)
    keep = keep_of_pools(pools, totals, lowest.reshape(-1), highest.reshape(-1), share)
    return keep.view(mass.shape)


def keep_outstanding(mass: Tensor, must: Tensor, may: Tensor | None, beta: float) -> Tensor:
    """What `outstanding.keep_outstanding` computes, for rows of `LONGEST_ROW` at most."""
    mass = mass.contiguous()
    keep = torch.empty_like(mass, dtype=torch.bool)
    programs, sizes, options = _rows_of(mass, must, may)
    launch(
        outstanding_kernel, programs, mass, must, may, keep, beta, *sizes,
        TINY=torch.finfo(torch.float32).tiny, LEAST_VARIANCE=LEAST_VARIANCE, **options,
    )  # fmt: skip
    return keep


def _rows_of(mass: Tensor, must: Tensor, may: Tensor | None) -> tuple[int, tuple[int, ...], dict[str, int]]:
    """Programs, sizes and options of a kernel with one program for each row of blocks."""
    sizes = (*_strides(must, mass), *_strides(may, mass), *mass.shape[1:])
    block = triton.next_power_of_2(mass.shape[3])
    return mass.shape[:3].numel(), sizes, {"BLOCK": block, "num_warps": min(max(block // 512, 1), 32)}


def _strides(flags: Tensor | None, mass: Tensor) -> tuple[int, ...]:
    """Strides of `flags` as it broadcasts to `mass`."""
    return (0, 0, 0, 0) if flags is None else flags.expand(mass.shape).stride()
