# mypy: disallow-untyped-defs=False
"""The attention mass of blocks from representatives, in Triton: one product of queries and keys, no logits.

The first kernel writes the log-sum-exp of each block of keys for each representative of the queries; the
second takes the softmax of those over a row's blocks, and the mean over the rows of a block. So the product
is computed once, where an online softmax would need it twice, and what goes through memory is smaller than
the logits by the representatives of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import launch, strides, unit_of
from accel.kernels.online_softmax import LOG2_E, load_rows

CHUNK_BYTES = 1 << 28
CHUNK = 64  # numbers of a vector that is too long for registers, taken at once
MOST_DIMS = 256  # of queries in registers


class Causality(NamedTuple):
    """What each representative represents: tokens of a query's and of a key's, and how many there are."""

    q_rows: int
    kv_rows: int
    q_len: int
    kv_len: int


@triton.jit(
    do_not_specialize=[
        "bias_samples", "bias_heads", "may_rows", "may_columns", "heads", "group", "first_row", "R", "C",
        "scale", "q_rows", "kv_rows", "M", "N",
    ],
    do_not_specialize_on_alignment=["bias_ptr", "may_ptr"],
)  # fmt: skip
def block_lse_kernel(
    q_ptr, k_ptr, bias_ptr, may_ptr, lse_ptr, q_strides, k_strides, bias_samples, bias_heads, may_rows,
    may_columns, heads, group, first_row, R, C, scale, q_rows, kv_rows, M, N, CAUSAL: tl.constexpr,
    CHUNKS: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, PER: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Base-2 log-sum-exps of every block of PER keys for BLOCK_M rows; written as [blocks, R].

    Strides of queries and keys are (sample, head, row), in UNITs. Vectors are CHUNKS times D numbers; of more
    than one chunk, queries do not stay in registers.
    """
    groups = tl.cdiv(R, BLOCK_M)
    head = tl.program_id(0) // groups
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    rows = tl.program_id(0) % groups * BLOCK_M + tl.arange(0, BLOCK_M)
    columns, dims = tl.arange(0, BLOCKS * PER), tl.arange(0, BLOCK_D)[None, :]
    q_ptr += (b * q_strides[0] + h * q_strides[1] + rows[:, None].to(tl.int64) * q_strides[2]) * UNIT + dims
    k_ptr += (b * k_strides[0] + h // group * k_strides[1]) * UNIT + dims
    bias_ptr += b * bias_samples + h * bias_heads + columns
    blocks = (C + PER - 1) // PER
    lse_ptr += head.to(tl.int64) * blocks * R
    if CHUNKS == 1:
        q = load_rows(q_ptr, rows[:, None] < R, D, BLOCK_D)
    last_seen = tl.minimum((first_row + rows + 1) * q_rows, M) - 1 + N - M
    end = blocks
    if CAUSAL:
        end = tl.minimum(blocks, tl.maximum(tl.max(last_seen, 0), -1) // (PER * kv_rows) + 1)
    for first in range(0, end, BLOCKS):
        keys = first * PER + columns
        block = first + tl.arange(0, BLOCKS)
        k_rows = k_ptr + keys[:, None].to(tl.int64) * k_strides[2] * UNIT
        if CHUNKS == 1:
            k = load_rows(k_rows, keys[:, None] < C, D, BLOCK_D)
            products = tl.dot(q, k.T, input_precision="ieee")
        else:
            products = tl.zeros([BLOCK_M, BLOCKS * PER], tl.float32)
            for chunk in range(CHUNKS):
                q = load_rows(q_ptr + chunk * D, rows[:, None] < R, D, BLOCK_D)
                k = load_rows(k_rows + chunk * D, keys[:, None] < C, D, BLOCK_D)
                products = tl.dot(q, k.T, products, input_precision="ieee")
        bias = tl.load(bias_ptr + first * PER, mask=keys < C, other=float("-inf")) * LOG2_E
        scores = products * scale + bias[None, :]
        if CAUSAL:
            scores = tl.where(keys[None, :] * kv_rows <= last_seen[:, None], scores, float("-inf"))
        cells = tl.reshape(scores, [BLOCK_M, BLOCKS, PER])
        most = tl.max(cells, 2)
        safe = tl.where(most == float("-inf"), 0.0, most)
        lse = most + tl.log2(tl.maximum(tl.sum(tl.exp2(cells - safe[:, :, None]), 2), 1e-30))
        inside = (rows < R)[:, None] & (block < blocks)[None, :]
        if may_ptr is not None:
            places = ((first_row + rows) // ROWS)[:, None] * may_rows + block[None, :] * may_columns
            lse = tl.where(tl.load(may_ptr + places, mask=inside, other=0) != 0, lse, float("-inf"))
        tl.store(lse_ptr + block[None, :].to(tl.int64) * R + rows[:, None], lse, mask=inside)
    if CAUSAL:
        for block in range((end + BLOCKS - 1) // BLOCKS * BLOCKS, blocks):
            places = (tl.zeros([BLOCK_M], tl.int64) + block) * R + rows
            tl.store(lse_ptr + places, tl.full([BLOCK_M], float("-inf"), tl.float32), mask=rows < R)


@triton.jit(do_not_specialize=["R", "blocks", "mass_stride", "first_block"])
def row_mass_kernel(
    lse_ptr, mass_ptr, R, blocks, mass_stride, first_block, MOST: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The mean, or the MOST, over the ROWS of one block of queries of the softmax over blocks of keys."""
    q_blocks = tl.cdiv(R, ROWS)
    head, q_block = (tl.program_id(0) // q_blocks).to(tl.int64), tl.program_id(0) % q_blocks
    rows = q_block * ROWS + tl.arange(0, ROWS)[None, :]
    lse_ptr += head * blocks * R + rows
    mass_ptr += head * mass_stride + (first_block + q_block).to(tl.int64) * blocks
    row_max = tl.full([1, ROWS], float("-inf"), tl.float32)
    row_sum = tl.zeros([1, ROWS], tl.float32)
    for start in range(0, blocks, BLOCK):
        block = start + tl.arange(0, BLOCK)[:, None]
        inside = (block < blocks) & (rows < R)
        lse = tl.load(lse_ptr + block.to(tl.int64) * R, mask=inside, other=float("-inf"))
        new_max = tl.maximum(row_max, tl.max(lse, 0, keep_dims=True))
        safe = tl.where(new_max == float("-inf"), 0.0, new_max)
        row_sum = row_sum * tl.exp2(row_max - safe) + tl.sum(tl.exp2(lse - safe), 0, keep_dims=True)
        row_max = new_max
    safe_max = tl.where(row_max == float("-inf"), 0.0, row_max)
    share = tl.where(row_sum > 0.0, 1.0 / tl.where(row_sum > 0.0, row_sum, 1.0), 0.0)
    if not MOST:
        share = share / tl.maximum(tl.sum((row_sum > 0.0).to(tl.float32), 1, keep_dims=True), 1.0)
    for start in range(0, blocks, BLOCK):
        block = start + tl.arange(0, BLOCK)[:, None]
        inside = (block < blocks) & (rows < R)
        lse = tl.load(lse_ptr + block.to(tl.int64) * R, mask=inside, other=float("-inf"))
        weights = tl.exp2(lse - safe_max) * share
        mass = tl.max(weights, 1, keep_dims=True) if MOST else tl.sum(weights, 1, keep_dims=True)
        tl.store(mass_ptr + block, mass, mask=block < blocks)


def block_mass(
    queries: Tensor,
    keys: Tensor,
    bias: Tensor,
    per_block: tuple[int, int],
    scale: float,
    causality: Causality | None = None,
    may: Tensor | None = None,
    most: bool = False,
) -> Tensor:
    """Float32 [B, H, Mb, Nb]: shares of the attention of each block of queries, a row's sum is 1, or 0.

    Args:
        queries: [B, H, R, D], any strides, D one that `takes`; keys: [B, Hkv, C, D].
        bias: float32 [B | 1, H | 1, C], added to the scaled products; -inf leaves a key out.
        per_block: how many queries and keys are a block, powers of two.
        causality: what hides keys from queries; None where nothing does.
        may: bool [Mb, Nb], the only blocks that count; None where all do.
        most: the largest share that any query of a block has instead of their mean.
    """
    queries, keys = (x if x.stride(-1) == 1 else x.contiguous() for x in (queries, keys))
    batch, heads, count, _ = queries.shape
    rows, per = per_block
    q_blocks, blocks = triton.cdiv(count, rows), triton.cdiv(keys.shape[2], per)
    mass = queries.new_empty(batch, heads, q_blocks, blocks, dtype=torch.float32)
    at_once = max(1, CHUNK_BYTES // (4 * batch * heads * blocks * rows))
    for first in range(0, q_blocks, at_once):
        chunk = queries[:, :, first * rows : (first + at_once) * rows]
        lse = chunk.new_empty(batch, heads, blocks, chunk.shape[2], dtype=torch.float32)
        _write_lse(chunk, keys, bias, may, lse, first * rows, per_block, scale, causality)
        launch(
            row_mass_kernel, triton.cdiv(chunk.shape[2], rows) * batch * heads,
            lse, mass, chunk.shape[2], blocks, q_blocks * blocks, first, MOST=most, ROWS=rows,
            BLOCK=max(2048 // rows, 16),
        )  # fmt: skip
    return mass


def _write_lse(
    queries: Tensor,
    keys: Tensor,
    bias: Tensor,
    may: Tensor | None,
    lse: Tensor,
    first_row: int,
    per_block: tuple[int, int],
    scale: float,
    causality: Causality | None,
) -> None:
    batch, heads, count, dim = queries.shape
    chunks = chunks_of(dim)
    config = launch_config(per_block[1], dim // chunks, queries.itemsize)
    unit = unit_of(queries, keys)
    launch(
        block_lse_kernel, triton.cdiv(count, config["BLOCK_M"]) * batch * heads,
        queries, keys, bias, may, lse, strides(queries, unit), strides(keys, unit),
        *strides(bias[:, :, None])[:2], *((0, 0) if may is None else may.stride()), heads,
        heads // keys.shape[1], first_row, count, keys.shape[2], scale * LOG2_E.value,
        *(causality or Causality(1, 1, count, keys.shape[2])), CAUSAL=causality is not None, CHUNKS=chunks,
        D=dim // chunks, UNIT=unit, ROWS=per_block[0], PER=per_block[1], **config,
    )  # fmt: skip


def takes(dim: int) -> bool:
    """Whether representatives may have so many numbers."""
    return dim <= MOST_DIMS or dim % CHUNK == 0


def chunks_of(dim: int) -> int:
    return 1 if dim <= MOST_DIMS else dim // CHUNK


def launch_config(per: int, dim: int, itemsize: int) -> dict[str, int]:
    """Rows and blocks of `per` keys in a tile, warps and stages: within 99 KiB of shared memory, as GPUs from
    sm_80 on have."""
    block_d = max(triton.next_power_of_2(dim), 16)
    small, wide = itemsize == 2, block_d > 128
    columns = max(per, (32 if wide else 64) if small else (16 if block_d > 64 else 32))
    return {
        "BLOCK_M": (64 if wide else 128) if small else (16 if block_d > 64 or per > 32 else 32),
        "BLOCKS": columns // per,
        "BLOCK_D": block_d,
        "num_warps": 8 if (small and not wide) or (not small and columns > 32) else 4,
        "num_stages": 1 if columns * block_d * itemsize > 1 << 15 else 3 if small and not wide else 2,
    }
