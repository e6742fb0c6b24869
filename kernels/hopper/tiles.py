# mypy: disallow-untyped-defs=False
"""Tiles of listed keys in the Gluon kernel for Hopper: how they come and what is seen.

A list names blocks of keys; a block is copied in boxes of a block or less, and boxes fill a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

# Triton 3.6 has these under other names.
tma_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
tma_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

BLOCK_M = gl.constexpr(128)  # queries of one program
ROWS = gl.constexpr(64)  # queries of one consumer
LN_2 = gl.constexpr(0.6931471805599453)
TYPES = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}


def box_descriptor(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """Addresses a tensor of four axes in boxes of its last two; what lies behind their ends reads as zero."""
    box = [1, 1, rows, columns]
    layout = gl.NVMMASharedLayout.get_default_for(box, TYPES[tensor.dtype])
    # The stride of an axis of length 1 is never used, but has to be a legal one.
    dims = zip(tensor.stride(), tensor.shape, strict=True)
    legal = [tensor.shape[3] if n == 1 and axis < 3 else s for axis, (s, n) in enumerate(dims)]
    return TensorDescriptor(tensor, list(tensor.shape), legal, box, layout)


@gluon.constexpr_function
def _product(columns):
    """How a consumer's product of [ROWS, columns] lies in its registers."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, columns, 16])


@gluon.jit
def _blocks_before(list_ptr, count, end):
    """How many of the `count` ascending blocks of a list have a number below `end`."""
    low = count
    # Usually all have, and the last one shows it.
    if gl.load(list_ptr + count - 1, mask=count > 0, other=0) >= end:
        low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        if gl.load(list_ptr + middle) < end:
            low = middle + 1
        else:
            high = middle
    return low


@gluon.jit
def _first_key(list_ptr, box, count, N, BOX: gl.constexpr, PARTS: gl.constexpr):
    """Where box number `box` of the `count` in a list begins; N, where TMA reads zeros, behind the last one.

    A block of keys has PARTS boxes of BOX.
    """
    block = gl.load(list_ptr + box // PARTS, mask=box < count, other=0)
    return gl.where(box < count, (block * PARTS + box % PARTS) * BOX, N)


@gluon.jit
def _full_tiles(list_ptr, count, end, BOX: gl.constexpr, PARTS: gl.constexpr, TILE: gl.constexpr):
    """How many tiles of the `count` ascending boxes of a list have only keys before `end`."""
    full = count
    while (full > 0) & (_first_key(list_ptr, gl.maximum(full - 1, 0), count, 0, BOX, PARTS) + BOX > end):
        full -= 1
    return full // (TILE // BOX)


@gluon.jit
def _fill(desc, full, place, list_ptr, tile, count, b, kv_h, N, PARTS: gl.constexpr):
    """Have one tile of keys or values, box by box, copied to `place`; `full` is set when all are there."""
    BOX: gl.constexpr = desc.block_type.shape[2]
    BOXES: gl.constexpr = place.shape[0] // BOX
    mbarrier.expect(full, BOXES * desc.block_type.nbytes)
    for box in gl.static_range(BOXES):
        key = _first_key(list_ptr, tile * BOXES + box, count, N, BOX, PARTS)
        tma_load(desc, [b, kv_h, key, 0], full, place.slice(box * BOX, BOX, dim=0))


@gluon.jit
def _keys_of_tile(tile, listed, BOX: gl.constexpr, PARTS: gl.constexpr, TILE: gl.constexpr):
    """Where the keys of a tile are in the sequence, [TILE], behind the last one those that are absent.

    Without positions, of each eight keys where the first is: all of them would take 32 registers.
    Positions go on behind the last key with a box of N.
    """
    list_ptr, count, N, kv_positions_ptr = listed
    columns = gl.arange(0, TILE, gl.SliceLayout(0, _product(TILE)))
    keys = columns
    BOXES: gl.constexpr = TILE // BOX
    for box in gl.static_range(BOXES):
        first = _first_key(list_ptr, tile * BOXES + box, count, N, BOX, PARTS)
        if kv_positions_ptr is None:
            of_box = first + columns % BOX // 8 * 8
        else:
            of_box = kv_positions_ptr + first + columns % BOX
        keys = of_box if box == 0 else gl.where(columns // BOX == box, of_box, keys)
    return keys if kv_positions_ptr is None else gl.load(keys)


@gluon.jit
def _mask(s, keys, limits, POSITIONS: gl.constexpr):
    """Scores, -inf where `keys` of a tile are behind the last that is seen, one number or one a row [ROWS,
    1], or, under a window, at or before the last that is not, one a row."""
    last_seen, last_hidden, window = limits
    if POSITIONS:
        seen = keys[None, :] <= last_seen
        if window is not None:
            seen = seen & (keys[None, :] > last_hidden)
    else:
        column = gl.arange(0, s.shape[1], gl.SliceLayout(0, _product(s.shape[1]))) % 8
        seen = column[None, :] <= last_seen - keys[None, :]
        if window is not None:
            seen = seen & (column[None, :] > last_hidden - keys[None, :])
    return gl.where(seen, s, float("-inf"))


@gluon.jit
def _allocate_barriers(STAGES: gl.constexpr):
    """Barriers of the queries, and for keys and for values: a tile has come, a tile's place is free."""
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for g in gl.static_range(2):
        mbarrier.init(q_full.index(g), count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=2)
        mbarrier.init(v_empty.index(stage), count=2)
    fence_async_shared()
    return q_full, k_full, k_empty, v_full, v_empty
