# mypy: disallow-untyped-defs=False
"""Block-sparse attention in Triton, for any GPU: softmax(q kᵀ · scale) v over the key blocks a layout lists.

One program computes one block of queries of one head. It walks that block's list with the online softmax
(arXiv 2307.08691) in base 2, in tiles of a block or less; what is not listed is neither read nor multiplied.
Lists ascend: tiles that every query sees come first and need no mask; the few that the end, the padding
or causality cuts come last. Under an order with causality or padding every tile is masked, by its tokens'
positions in the sequence; so is every tile under a window, which also cuts the first ones of a list. Under a
visibility lists are sorted so that tiles which need no mask come first.

Only keys and values are gathered into an order, in one pass each: queries are read from, and outputs written
to, their places in the sequence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.attention.configurations import candidates, ladder
from accel.kernels.attention.tail_triton import add_tail
from accel.kernels.launch import Config, apart, launch, launch_fitting, strides, target, unit_of
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import by_head
from accel.kernels.layout.restricted import tags_by_block, whole_blocks_first
from accel.kernels.layout.walk_triton import blocks_before, first_key, full_tiles
from accel.kernels.layout.work_order import work_order_if_it_matters
from accel.kernels.online_softmax import LOG2_E, finish, load_rows, take_in
from accel.kernels.timings import Call, with_fastest_first


@triton.jit(
    do_not_specialize=[
        "samples_apart", "heads_apart", "slots", "q_positions_apart", "kv_positions_apart",
        "heads", "group", "blocks", "M", "N", "scale", "window", "guards",
    ],
    do_not_specialize_on_alignment=[
        "indices_ptr", "counts_ptr", "lengths_ptr", "work_ptr", "full_ptr", "low_ptr", "high_ptr",
        "first_ptr", "last_ptr",
    ],
)  # fmt: skip
def block_sparse_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, indices_ptr, counts_ptr, lengths_ptr, work_ptr, full_ptr,
    low_ptr, high_ptr, first_ptr, last_ptr, q_positions_ptr, kv_positions_ptr, q_strides, k_strides,
    v_strides, out_strides, samples_apart, heads_apart, slots, q_positions_apart, kv_positions_apart, heads,
    group, blocks, M, N, scale, window, guards, CAUSAL: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr,
    PARTS: tl.constexpr, TILES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One of the PARTS of one block of queries of one head.

    Strides are (sample, head, row), in UNITs; lists and positions are `apart` in heads. `scale` has log2(e)
    in it.
    """
    head = tl.program_id(0) // (blocks * PARTS)
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    part = tl.program_id(0) % (blocks * PARTS)
    first_list = (b * samples_apart + h * heads_apart) * blocks
    block = part // PARTS
    if work_ptr is not None:
        block = tl.load(work_ptr + first_list + block)
    first_row = (block * PARTS + part % PARTS) * BLOCK_M
    rows, columns = first_row + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)[None, :]
    k_row, v_row = k_strides[2] * UNIT, v_strides[2] * UNIT
    k_ptr += (b * k_strides[0] + h // group * k_strides[1]) * UNIT + columns[:, None] * k_row + dims
    v_ptr += (b * v_strides[0] + h // group * v_strides[1]) * UNIT + columns[:, None] * v_row + dims
    end, q_positions = N, rows
    if lengths_ptr is not None:
        end = tl.minimum(N, tl.load(lengths_ptr + b))
    if q_positions_ptr is not None:
        q_positions_ptr += (b * q_positions_apart[0] + h * q_positions_apart[1]) * M
        q_positions = tl.load(q_positions_ptr + rows, mask=rows < M, other=0).to(tl.int32)
    q_ptr += (b * q_strides[0] + h * q_strides[1] + q_positions[:, None].to(tl.int64) * q_strides[2]) * UNIT
    q = load_rows(q_ptr + dims, rows[:, None] < M, D, BLOCK_D)
    list_ptr = indices_ptr + (first_list + block) * slots
    count = tl.load(counts_ptr + first_list + block)
    full = 0
    if full_ptr is not None:
        full = tl.load(full_ptr + first_list + block) * TILES
        of_rows = (b * q_positions_apart[0] + h * q_positions_apart[1]) * M
        low_ptr += of_rows
        of_keys = (b * kv_positions_apart[0] + h // group * kv_positions_apart[1]) * N
        first_ptr += of_keys
        last_ptr += of_keys
    if kv_positions_ptr is None and full_ptr is None:
        last_seen = end
        if CAUSAL:
            last_row = tl.minimum(first_row + BLOCK_M, M) - 1
            last_seen = tl.minimum(end, last_row + N - M + 1)
        count = blocks_before(list_ptr, count, tl.cdiv(tl.maximum(last_seen, 0), BLOCK_N * TILES))
    count *= TILES
    if window is None and kv_positions_ptr is None and full_ptr is None:
        seen_by_all = tl.minimum(end, first_row + N - M + 1) if CAUSAL else end
        full = full_tiles(list_ptr, count, seen_by_all, BLOCK_N, TILES)
    if kv_positions_ptr is not None:
        kv_positions_ptr += (b * kv_positions_apart[0] + h // group * kv_positions_apart[1]) * N

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    # The list is read one tile ahead, so that the loads of keys and values can be pipelined.
    upcoming = first_key(list_ptr, 0, count, BLOCK_N, TILES)
    for tile in range(full):
        start = upcoming.to(tl.int64)
        upcoming = first_key(list_ptr, tile + 1, count, BLOCK_N, TILES)
        k = load_rows(k_ptr + start * k_row, None, D, BLOCK_D)
        v = load_rows(v_ptr + start * v_row, None, D, BLOCK_D)
        scores = tl.dot(q, k.T, input_precision="ieee")  # [BLOCK_M, BLOCK_N]
        accumulator, row_max, row_sum = take_in(scores, v, accumulator, row_max, row_sum, scale)
    for tile in range(full, count):
        start = first_key(list_ptr, tile, count, BLOCK_N, TILES).to(tl.int64)
        positions = start.to(tl.int32) + columns
        if kv_positions_ptr is not None:
            positions = tl.load(kv_positions_ptr + positions, mask=positions < N, other=N)
        present = positions < end
        k = load_rows(k_ptr + start * k_row, present[:, None], D, BLOCK_D)
        v = load_rows(v_ptr + start * v_row, present[:, None], D, BLOCK_D)
        visible = present[None, :]
        if CAUSAL:
            visible &= positions[None, :] <= q_positions[:, None] + N - M
        if window is not None:
            visible &= positions[None, :] > q_positions[:, None] + N - M - window
        if full_ptr is not None:
            # Read in each tile, so that they take no registers in the other loop.
            low = tl.load(low_ptr + rows, mask=rows < M, other=0)[:, None]
            first = tl.load(first_ptr + positions, mask=present, other=0)[None, :]
            last = tl.load(last_ptr + positions, mask=present, other=0)[None, :]
            if guards is None:
                visible &= (first <= low) & (low <= last)
            else:
                high = tl.load(high_ptr + of_rows + rows, mask=rows < M, other=0)[:, None]
                visible &= ((high - first) & (last - low) & guards) == guards
        scores = tl.where(visible, tl.dot(q, k.T, input_precision="ieee"), float("-inf"))
        accumulator, row_max, row_sum = take_in(scores, v, accumulator, row_max, row_sum, scale)

    out, lse = finish(accumulator, row_max, row_sum)
    if q_positions_ptr is not None:
        # Read again, so that they take no registers in the loops.
        q_positions = tl.load(q_positions_ptr + rows, mask=rows < M, other=0).to(tl.int32)
    places = q_positions[:, None].to(tl.int64)
    out_ptr += (b * out_strides[0] + h * out_strides[1] + places * out_strides[2]) * UNIT + dims
    tl.store(out_ptr, out.to(out_ptr.dtype.element_ty), mask=(rows[:, None] < M) & (dims < D))
    tl.store(lse_ptr + (b * heads + h) * M + q_positions, lse, mask=rows < M)


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """What `reference.block_sparse_attention` computes, without waiting for the device."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if layout.kv_order is not None:
        k, v = layout.kv_order.permute(k), layout.kv_order.permute(v)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    batch, heads, q_len, dim = q.shape
    out = q.new_empty(batch, q_len, heads, dim).transpose(1, 2)
    lse = q.new_empty(batch, heads, q_len, dtype=torch.float32)
    _launch(q, k, v, out, lse, layout, scale)
    if layout.tail:
        add_tail(q, k, v, layout, out, lse, scale, by_head(layout.q_order))
    return out, lse


def _launch(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, layout: BlockLayout, scale: float
) -> None:
    batch, heads, q_len, dim = q.shape
    masked = layout.causal or layout.kv_lengths is not None
    full: Tensor | None = None
    tags: Any = (None,) * 4
    guards: int | None = None
    if layout.visibility is not None:
        guards, tags = layout.visibility.packed(tags_by_block(layout))
        layout, full = whole_blocks_first(layout, heads)
        # Tags say what is padding too.
        layout, masked = replace(layout, kv_lengths=None), False
    indices, counts = layout.kv_indices.contiguous(), layout.kv_num_blocks.contiguous()
    q_positions, kv_positions = by_head(layout.q_order), by_head(layout.kv_order) if masked else None
    if masked and kv_positions is None and q_positions is not None:
        kv_positions = torch.arange(layout.kv_len, device=q.device).view(1, 1, -1)
    of_tokens = (q_positions, kv_positions) if full is None else tags[1:3]
    work = work_order_if_it_matters(layout, batch * heads)
    rows, columns = layout.block_size
    unit = unit_of(q, k, v, out)

    def start(config: Config) -> None:
        parts = rows // config["BLOCK_M"]
        launch(
            block_sparse_kernel, layout.num_q_blocks * parts * batch * heads,
            q, k, v, out, lse, indices, counts, layout.kv_lengths, work, full, *tags, q_positions,
            kv_positions,
            *(strides(x, unit) for x in (q, k, v, out)), *apart(indices), indices.shape[3],
            *map(apart, of_tokens), heads, heads // k.shape[1], layout.num_q_blocks,
            q_len, layout.kv_len, scale * LOG2_E.value, layout.window, guards,
            CAUSAL=layout.causal, D=dim, UNIT=unit, BLOCK_D=triton.next_power_of_2(dim), PARTS=parts,
            TILES=columns // config["BLOCK_N"], **config,
        )  # fmt: skip

    about = (block_sparse_kernel, q.device, q.dtype, dim, rows, columns, masked, layout.q_order is None)
    card = target()
    rungs = ladder(card, rows, columns, dim, q.itemsize)
    if q.itemsize == 2:
        call = Call(q.device, q.dtype, dim, layout.block_size)
        rungs = with_fastest_first("triton", call, candidates(card, rows, columns, dim, 2), rungs)
    launch_fitting(about, rungs, start)
