# mypy: disallow-untyped-defs=False
"""How a Triton kernel walks one row's list of key blocks, tile by tile."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def blocks_before(list_ptr, count, end):
    """How many of the `count` ascending blocks of a list have a number below `end`."""
    # Usually all have, and the last one shows it.
    last = tl.load(list_ptr + count - 1, mask=count > 0, other=0)
    low = tl.where(last < end, count, 0)
    high = count
    while low < high:
        middle = (low + high) // 2
        before = tl.load(list_ptr + middle) < end
        low = tl.where(before, middle + 1, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def first_key(list_ptr, tile, count, BLOCK_N: tl.constexpr, TILES: tl.constexpr):
    """Where tile number `tile` of the `count` in a list begins; its block has TILES tiles of BLOCK_N keys."""
    block = tl.load(list_ptr + tile // TILES, mask=(tile >= 0) & (tile < count), other=0)
    return (block * TILES + tile % TILES) * BLOCK_N


@triton.jit
def full_tiles(list_ptr, count, end, BLOCK_N: tl.constexpr, TILES: tl.constexpr):
    """How many of the `count` ascending tiles of a list end before key `end`."""
    full = count
    while (full > 0) & (first_key(list_ptr, full - 1, count, BLOCK_N, TILES) + BLOCK_N > end):
        full -= 1
    return full
