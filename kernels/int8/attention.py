# mypy: disallow-untyped-defs=False
"""Block-sparse attention with queries and keys in int8 and values in float16 (arXiv 2410.02367), in Triton.

The kernel of the Triton tier with other products: queries and keys in int8 with sums in int32, weights and
values with the sums of a tile in float16. The scales of
a query and of a block of keys go into the one factor that scores meet anyway, so they cost a product for each
row of a tile and nothing for each score. What the mean key adds to a row's logits changes no weight; it is
added to the LSE.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.attention.tail_triton import add_tail
from accel.kernels.attention.tier import require, takes_no_visibility
from accel.kernels.int8.configurations import candidates, ladder
from accel.kernels.int8.quantise import operands
from accel.kernels.int8.tier import does_not_take
from accel.kernels.launch import Config, apart, launch, launch_fitting, target
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import by_head
from accel.kernels.layout.walk_triton import blocks_before, first_key, full_tiles
from accel.kernels.layout.work_order import work_order_if_it_matters
from accel.kernels.online_softmax import LOG2_E, finish, load_rows, take_in
from accel.kernels.timings import Call, with_fastest_first


@triton.jit
def _scale_of(scales_ptr, list_ptr, tile, count, scale, TILES: tl.constexpr):
    """The factors of the scores of tile number `tile`: `scale` [BLOCK_M] times its key block's."""
    block = tl.load(list_ptr + tile // TILES, mask=(tile >= 0) & (tile < count), other=0)
    return scale * tl.load(scales_ptr + block)


@triton.jit(
    do_not_specialize=[
        "samples_apart", "heads_apart", "slots", "q_positions_apart", "kv_positions_apart",
        "heads", "group", "blocks", "kv_blocks", "M", "N", "scale", "window",
    ],
    do_not_specialize_on_alignment=[
        "indices_ptr", "counts_ptr", "lengths_ptr", "work_ptr", "q_scales_ptr", "k_scales_ptr",
        "v_scales_ptr", "shift_ptr",
    ],
)  # fmt: skip
def int8_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, q_scales_ptr, k_scales_ptr, v_scales_ptr, shift_ptr, indices_ptr,
    counts_ptr, lengths_ptr, work_ptr, q_positions_ptr, kv_positions_ptr, samples_apart, heads_apart, slots,
    q_positions_apart, kv_positions_apart, heads, group, blocks, kv_blocks, M, N, scale, window,
    CAUSAL: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr, TILES: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One of the PARTS of one block of queries of one head.

    Queries lie in the order of their blocks; outputs go where `q_positions` says. All tensors of tokens are
    contiguous, the output [B, M, H, D]. `scale` has log2(e) in it.
    """
    head = tl.program_id(0) // (blocks * PARTS)
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    kv_head = b * (heads // group) + h // group
    part = tl.program_id(0) % (blocks * PARTS)
    first_list = (b * samples_apart + h * heads_apart) * blocks
    block = part // PARTS
    if work_ptr is not None:
        block = tl.load(work_ptr + first_list + block)
    first_row = (block * PARTS + part % PARTS) * BLOCK_M
    rows, columns = first_row + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    dims = tl.arange(0, D)[None, :]
    k_ptr += kv_head * N * D + columns[:, None] * D + dims
    v_ptr += kv_head * N * D + columns[:, None] * D + dims
    k_scales_ptr += kv_head * kv_blocks
    end, q_positions = N, rows
    if lengths_ptr is not None:
        end = tl.minimum(N, tl.load(lengths_ptr + b))
    if q_positions_ptr is not None:
        q_positions_ptr += (b * q_positions_apart[0] + h * q_positions_apart[1]) * M
        q_positions = tl.load(q_positions_ptr + rows, mask=rows < M, other=0).to(tl.int32)
    q = tl.load(q_ptr + (head.to(tl.int64) * M + rows)[:, None] * D + dims, mask=rows[:, None] < M, other=0)
    scale *= tl.load(q_scales_ptr + head.to(tl.int64) * M + rows, mask=rows < M, other=1.0)  # [BLOCK_M]
    list_ptr = indices_ptr + (first_list + block) * slots
    count = tl.load(counts_ptr + first_list + block)
    full = 0
    if kv_positions_ptr is None:
        last_seen = tl.minimum(end, tl.minimum(first_row + BLOCK_M, M) + N - M) if CAUSAL else end
        count = blocks_before(list_ptr, count, tl.cdiv(tl.maximum(last_seen, 0), BLOCK_N * TILES))
    count *= TILES
    if window is None and kv_positions_ptr is None:
        seen_by_all = tl.minimum(end, first_row + N - M + 1) if CAUSAL else end
        full = full_tiles(list_ptr, count, seen_by_all, BLOCK_N, TILES)
    if kv_positions_ptr is not None:
        kv_positions_ptr += (b * kv_positions_apart[0] + h // group * kv_positions_apart[1]) * N

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    accumulator = tl.zeros([BLOCK_M, D], tl.float32)
    # List and scales are read one tile ahead, so that the loads of keys and values can be pipelined.
    upcoming = first_key(list_ptr, 0, count, BLOCK_N, TILES)
    factor = _scale_of(k_scales_ptr, list_ptr, 0, count, scale, TILES)
    for tile in range(full):
        start, of_tile = upcoming.to(tl.int64), factor
        upcoming = first_key(list_ptr, tile + 1, count, BLOCK_N, TILES)
        factor = _scale_of(k_scales_ptr, list_ptr, tile + 1, count, scale, TILES)
        k = tl.load(k_ptr + start * D)
        v = tl.load(v_ptr + start * D)
        scores = tl.dot(q, k.T, out_dtype=tl.int32).to(tl.float32)  # [BLOCK_M, BLOCK_N]
        accumulator, row_max, row_sum = take_in(scores, v, accumulator, row_max, row_sum, of_tile, True, True)
    for tile in range(full, count):
        start = first_key(list_ptr, tile, count, BLOCK_N, TILES).to(tl.int64)
        of_tile = _scale_of(k_scales_ptr, list_ptr, tile, count, scale, TILES)
        positions = start.to(tl.int32) + columns
        if kv_positions_ptr is not None:
            positions = tl.load(kv_positions_ptr + positions, mask=positions < N, other=N)
        present = positions < end
        k = tl.load(k_ptr + start * D, mask=present[:, None], other=0)
        v = load_rows(v_ptr + start * D, present[:, None], D, D)
        visible = present[None, :]
        if CAUSAL:
            visible &= positions[None, :] <= q_positions[:, None] + N - M
        if window is not None:
            visible &= positions[None, :] > q_positions[:, None] + N - M - window
        scores = tl.dot(q, k.T, out_dtype=tl.int32).to(tl.float32)
        scores = tl.where(visible, scores, float("-inf"))
        accumulator, row_max, row_sum = take_in(scores, v, accumulator, row_max, row_sum, of_tile, True, True)

    out, lse = finish(accumulator, row_max, row_sum)
    out *= tl.load(v_scales_ptr + kv_head)
    shift = tl.load(shift_ptr + head.to(tl.int64) * M + rows, mask=rows < M, other=0.0)
    out = tl.where((shift == shift)[:, None] | (row_sum == 0.0)[:, None], out, float("nan"))
    if q_positions_ptr is not None:
        # Read again, so that they take no registers in the loops.
        q_positions = tl.load(q_positions_ptr + rows, mask=rows < M, other=0).to(tl.int32)
    out_ptr += ((b * M + q_positions[:, None]) * heads + h) * D + dims
    tl.store(out_ptr, out.to(out_ptr.dtype.element_ty), mask=rows[:, None] < M)
    lse = tl.where(row_sum == 0.0, lse, lse + shift)
    tl.store(lse_ptr + head.to(tl.int64) * M + q_positions, lse, mask=rows < M)


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """What `reference.block_sparse_attention` computes, queries and keys rounded to int8.

    Raises:
        ValueError: if the head dim is not 64 or 128, the type is not a half one, or the layout has a
            visibility.
    """
    require("int8", does_not_take(q.dtype, q.shape[-1]), takes_no_visibility(layout))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    batch, heads, q_len, dim = q.shape
    in_blocks = layout.to_block_order(q, k, v)
    eight = operands(*in_blocks, layout.block_size[1], scale)
    out = q.new_empty(batch, q_len, heads, dim).transpose(1, 2)
    lse = q.new_empty(batch, heads, q_len, dtype=torch.float32)
    indices, counts = layout.kv_indices.contiguous(), layout.kv_num_blocks.contiguous()
    masked = layout.causal or layout.kv_lengths is not None
    q_positions, kv_positions = by_head(layout.q_order), by_head(layout.kv_order) if masked else None
    if masked and kv_positions is None and q_positions is not None:
        kv_positions = torch.arange(layout.kv_len, device=q.device).view(1, 1, -1)
    work = work_order_if_it_matters(layout, batch * heads)
    rows, columns = layout.block_size
    kv_heads = eight.k.shape[1]

    def start(tile: Config) -> None:
        parts = rows // tile["BLOCK_M"]
        launch(
            int8_kernel, layout.num_q_blocks * parts * batch * heads,
            eight.q, eight.k, eight.v, out, lse, eight.q_scales, eight.k_scales, eight.v_scales, eight.shift,
            indices, counts, layout.kv_lengths, work, q_positions, kv_positions, *apart(indices),
            indices.shape[3], apart(q_positions), apart(kv_positions), heads, heads // kv_heads,
            layout.num_q_blocks, layout.num_kv_blocks, q_len, layout.kv_len, scale * LOG2_E.value,
            layout.window, CAUSAL=layout.causal, D=dim, PARTS=parts, TILES=columns // tile["BLOCK_N"], **tile,
        )  # fmt: skip

    by_positions = kv_positions is not None
    about = (int8_kernel, q.device, dim, rows, columns, by_positions)
    rungs = ladder(rows, columns, by_positions)
    if not by_positions:
        call = Call(q.device, q.dtype, dim, layout.block_size)
        rungs = with_fastest_first("int8", call, candidates(target(), rows, columns, dim), rungs)
    launch_fitting(about, rungs, start)
    if layout.tail:
        add_tail(q, in_blocks[1], in_blocks[2], layout, out, lse, scale, q_positions)
    return out, lse
