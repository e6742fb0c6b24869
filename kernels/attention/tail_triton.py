# mypy: disallow-untyped-defs=False
"""The tail in Triton: the mean keys and values of all blocks, and attention to those a row does not list.

Means are written in one pass over keys and values. A second kernel walks them alongside the row's list, which
ascends as they do, and joins them into an attention already computed: nothing of the size of all blocks times
all blocks is ever made.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.attention.configurations import ladder
from accel.kernels.attention.tail import tail_blocks
from accel.kernels.launch import Config, apart, launch, launch_fitting, strides, target, unit_of
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder, by_head
from accel.kernels.online_softmax import LOG2_E, finish, load_rows, take_in


@triton.jit
def _store_mean(tokens_ptr, means_ptr, token_strides, b, h, rows, present, count, D: tl.constexpr,
                UNIT: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """The mean of the tokens at `rows` of one head that are present; 0 if no token is."""
    dims = tl.arange(0, BLOCK_D)
    tokens_ptr += (b * token_strides[0] + h * token_strides[1]) * UNIT
    places = rows[:, None].to(tl.int64) * token_strides[2] * UNIT + dims[None, :]
    tokens = tl.load(tokens_ptr + places, mask=present[:, None] & (dims < D)[None, :], other=0.0)
    mean = tl.sum(tokens.to(tl.float32), 0) / count
    tl.store(means_ptr + dims, mean.to(means_ptr.dtype.element_ty), mask=dims < D)


@triton.jit(
    do_not_specialize=["samples_apart", "heads_apart", "heads", "blocks", "N"],
    do_not_specialize_on_alignment=["lengths_ptr", "positions_ptr"],
)
def tail_means_kernel(
    k_ptr, v_ptr, mean_k_ptr, mean_v_ptr, lengths_ptr, positions_ptr, k_strides, v_strides, samples_apart,
    heads_apart, heads, blocks, N, ROWS: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Both means of one block of one head."""
    head, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    rows = block * ROWS + tl.arange(0, ROWS)
    present = rows < N
    if lengths_ptr is not None:
        positions = rows
        if positions_ptr is not None:
            positions_ptr += (b * samples_apart + h * heads_apart) * N
            positions = tl.load(positions_ptr + rows, mask=present, other=N)
        present = present & (positions < tl.load(lengths_ptr + b))
    count = tl.maximum(tl.sum(present.to(tl.int32), 0), 1)
    place = tl.program_id(0).to(tl.int64) * D
    _store_mean(k_ptr, mean_k_ptr + place, k_strides, b, h, rows, present, count, D, UNIT, BLOCK_D)
    _store_mean(v_ptr, mean_v_ptr + place, v_strides, b, h, rows, present, count, D, UNIT, BLOCK_D)


def tail_means(
    k: Tensor, v: Tensor, columns: int, lengths: Tensor | None, order: TokenOrder | None
) -> tuple[Tensor, Tensor]:
    """What `tail.tail_means` computes of k and v [B, Hkv, N, D] in `order`, in their type.

    Args:
        lengths: int32 [B]; tokens at positions from there on are padding.
    """
    batch, heads, length, dim = k.shape
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    blocks, unit = triton.cdiv(length, columns), unit_of(k, v)
    mean_k, mean_v = (x.new_empty(batch, heads, blocks, dim) for x in (k, v))
    positions = None if lengths is None else by_head(order)
    launch(
        tail_means_kernel, blocks * batch * heads,
        k, v, mean_k, mean_v, lengths, positions, strides(k, unit), strides(v, unit), *apart(positions),
        heads, blocks, length, ROWS=columns, D=dim, UNIT=unit, BLOCK_D=triton.next_power_of_2(dim),
        num_warps=8,
    )  # fmt: skip
    return mean_k, mean_v


@triton.jit
def _listed(list_ptr, slot, count, first, MEANS: tl.constexpr):
    """Which of the MEANS blocks from `first` on are in a list, and how many; its entry `slot` is the first
    that is not before them."""
    ahead = slot + tl.arange(0, MEANS)
    entries = tl.load(list_ptr + ahead, mask=ahead < count, other=-1)
    entries = tl.where(entries < first + MEANS, entries, -1)
    same = entries[:, None] == first + tl.arange(0, MEANS)[None, :]
    return tl.max(same.to(tl.int32), 0) > 0, tl.sum((entries >= 0).to(tl.int32), 0)


@triton.jit(
    do_not_specialize=[
        "samples_apart", "heads_apart", "slots", "heads", "group", "blocks", "M", "means", "scale",
        "tokens_samples", "tokens_heads", "q_samples", "q_heads", "low_samples", "low_heads",
    ],
    do_not_specialize_on_alignment=[
        "indices_ptr", "counts_ptr", "tokens_ptr", "first_ptr", "low_ptr", "last_ptr", "high_ptr",
    ],
)  # fmt: skip
def tail_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, indices_ptr, counts_ptr, tokens_ptr, first_ptr, low_ptr,
    last_ptr, high_ptr, positions_ptr, q_strides, k_strides, v_strides, out_strides, samples_apart,
    heads_apart, slots, tokens_samples, tokens_heads, low_samples, low_heads, q_samples, q_heads, heads,
    group, blocks, M, means, scale, D: tl.constexpr, UNIT: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One of the PARTS of one block of queries over all means; out and LSE are read, joined, written back."""
    head, part = tl.program_id(0) // (blocks * PARTS), tl.program_id(0) % (blocks * PARTS)
    block = part // PARTS
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    rows, columns = part * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)[None, :]
    in_rows = rows[:, None] < M
    places = rows
    if positions_ptr is not None:
        positions_ptr += (b * q_samples + h * q_heads) * M
        places = tl.load(positions_ptr + rows, mask=rows < M, other=0).to(tl.int32)
    places = places.to(tl.int64)
    q_ptr += (b * q_strides[0] + h * q_strides[1] + places[:, None] * q_strides[2]) * UNIT + dims
    k_ptr += (b * k_strides[0] + h // group * k_strides[1]) * UNIT + dims
    v_ptr += (b * v_strides[0] + h // group * v_strides[1]) * UNIT + dims
    out_ptr += (b * out_strides[0] + h * out_strides[1]) * UNIT + dims
    lse_ptr += (b * heads + h) * M
    row = (b * samples_apart + h * heads_apart) * blocks + block
    list_ptr, count = indices_ptr + row * slots, tl.load(counts_ptr + row)
    of_head = (b * tokens_samples + h // group * tokens_heads) * means
    tokens_ptr += of_head
    of_rows = (b * low_samples + h * low_heads) * blocks + block
    low, high = 0, 0
    if first_ptr is not None:
        first_ptr += of_head
        low = tl.load(low_ptr + of_rows)
    if last_ptr is not None:
        last_ptr += of_head
        high = tl.load(high_ptr + of_rows)

    q = load_rows(q_ptr, in_rows, D, BLOCK_D)
    before = out_ptr + places[:, None] * out_strides[2] * UNIT
    accumulator = load_rows(before, in_rows, D, BLOCK_D).to(tl.float32)
    row_max = tl.load(lse_ptr + places, mask=rows < M, other=float("-inf")) * LOG2_E
    row_sum = tl.where(row_max == float("-inf"), 0.0, 1.0)
    slot = 0
    for start in range(0, means, BLOCK_N):
        mean = start + columns
        k = load_rows(k_ptr + mean[:, None] * k_strides[2] * UNIT, mean[:, None] < means, D, BLOCK_D)
        v = load_rows(v_ptr + mean[:, None] * v_strides[2] * UNIT, mean[:, None] < means, D, BLOCK_D)
        listed, passed = _listed(list_ptr, slot, count, start, BLOCK_N)
        slot += passed
        tokens = tl.load(tokens_ptr + mean, mask=mean < means, other=0)
        taken = (tokens > 0) & (listed == 0)
        if first_ptr is not None:
            taken &= tl.load(first_ptr + mean, mask=mean < means, other=0) <= low
        if last_ptr is not None:
            taken &= tl.load(last_ptr + mean, mask=mean < means, other=0) >= high
        bias = tl.where(taken, tl.log2(tl.maximum(tokens, 1).to(tl.float32)), float("-inf"))
        scores = tl.dot(q, k.T, input_precision="ieee") * scale + bias[None, :]
        accumulator, row_max, row_sum = take_in(scores, v, accumulator, row_max, row_sum, 1.0)

    out, lse = finish(accumulator, row_max, row_sum)
    if positions_ptr is not None:
        # Read again, so that they take no registers in the loop.
        places = tl.load(positions_ptr + rows, mask=rows < M, other=0).to(tl.int64)
    out_ptr += places[:, None] * out_strides[2] * UNIT
    tl.store(out_ptr, out.to(out_ptr.dtype.element_ty), mask=in_rows & (dims < D))
    tl.store(lse_ptr + places, lse, mask=rows < M)


def add_tail(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    out: Tensor,
    lse: Tensor,
    scale: float,
    positions: Tensor | None = None,
) -> None:
    """Join attention to the means of the blocks a row does not list into `out` and `lse`, in place.

    Args:
        q, out: [B, H, M, D]; lse: float32 [B, H, M], contiguous.
        k, v: [B, Hkv, N, D], in the order that `layout` cuts its blocks from.
        positions: int64 or int32 [B | 1, H | 1, M], where the queries of the blocks are in q, out and lse;
            None if they are in that order.
    """
    batch, heads, q_len, dim = q.shape
    rows, columns = layout.block_size
    mean_k, mean_v = tail_means(k, v, columns, layout.kv_lengths, layout.kv_order)
    tokens, *limits = (x if x is None else x.int().contiguous() for x in tail_blocks(layout))
    indices, counts = layout.kv_indices.contiguous(), layout.kv_num_blocks.contiguous()
    unit = unit_of(q, mean_k, mean_v, out)

    def start(config: Config) -> None:
        parts = rows // config["BLOCK_M"]
        launch(
            tail_kernel, layout.num_q_blocks * parts * batch * heads,
            q, mean_k, mean_v, out, lse, indices, counts, tokens, *limits, positions,
            *(strides(x, unit) for x in (q, mean_k, mean_v, out)), *apart(indices), indices.shape[3],
            *apart(tokens), *apart(limits[1]), *apart(positions), heads, heads // mean_k.shape[1],
            layout.num_q_blocks, q_len, mean_k.shape[2], scale * LOG2_E.value, D=dim, UNIT=unit,
            BLOCK_D=triton.next_power_of_2(dim), PARTS=parts, **config,
        )  # fmt: skip

    about = (tail_kernel, q.device, q.dtype, dim, rows)
    # The list takes registers too: with many dims they suffice for fewer queries and means at once.
    half = q.itemsize == 2
    at_most = (128 if dim <= 128 else 64) if half else (128 if dim <= 64 else 16)
    at_once = 32 if dim <= 64 else 16
    launch_fitting(about, ladder(target(), min(rows, at_most), at_once, dim, q.itemsize), start)
