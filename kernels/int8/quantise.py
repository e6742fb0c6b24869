# mypy: disallow-untyped-defs=False
"""Operands of the int8 kernel in Triton: a pass over keys and values for their mean, and one over all three.

Each query has a scale, and each block of keys. The mean key of a head is taken out first: what keys have in
common would take most of eight bits, and moves all logits of a query alike. Values go to float16, divided by
a power of two a head where they would not fit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import launch, strides, unit_of

STATISTICS_ROWS = 1024  # tokens of one program
QUERY_ROWS = 64
MOST_HALF = 512.0  # the sum of the weighted values of a tile, 64 at most, stays within float16


class Operands(NamedTuple):
    """What the kernel reads.

    Args:
        q: int8 [B, H, M, D]; q_scales: float32 [B, H, M].
        k: int8 [B, Hkv, N, D]; k_scales: float32 [B, Hkv, Nb].
        v: float16 [B, Hkv, N, D]; v_scales: float32 [B, Hkv], powers of two.
        shift: float32 [B, H, M], what the mean key, which `k` lacks, adds to each row's logits.
    """

    q: Tensor
    q_scales: Tensor
    k: Tensor
    k_scales: Tensor
    v: Tensor
    v_scales: Tensor
    shift: Tensor


@triton.jit
def _tokens(ptr, token_strides, b, h, rows, N, D: tl.constexpr, UNIT: tl.constexpr):
    """Float32 [rows, D] of one head; 0 beyond N."""
    ptr += (b * token_strides[0] + h * token_strides[1]) * UNIT
    places = rows[:, None].to(tl.int64) * token_strides[2] * UNIT + tl.arange(0, D)[None, :]
    return tl.load(ptr + places, mask=(rows < N)[:, None], other=0.0).to(tl.float32)


@triton.jit
def _finite(tokens):
    return tl.abs(tokens) < float("inf")


@triton.jit
def _eight(tokens, most):
    """`tokens` [rows, D] rounded to int8, what is `most` to 127; their scale is most / 127."""
    scaled = tokens * (127.0 / most)
    # Half away from zero: conversions cut off what is behind the point.
    return (scaled + tl.where(scaled < 0, -0.5, 0.5)).to(tl.int8)


@triton.jit(do_not_specialize=["heads", "chunks", "N"])
def statistics_kernel(
    k_ptr, v_ptr, out_ptr, k_strides, v_strides, heads, chunks, N,
    D: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Of ROWS tokens of one head: the sum of finite keys by channel, and the largest finite value's size."""
    head, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    total, most = tl.zeros([D], tl.float32), tl.zeros([D], tl.float32)
    for start in range(0, ROWS, TILE):
        rows = chunk * ROWS + start + tl.arange(0, TILE)
        k = _tokens(k_ptr, k_strides, b, h, rows, N, D, UNIT)
        v = _tokens(v_ptr, v_strides, b, h, rows, N, D, UNIT)
        total += tl.sum(tl.where(_finite(k), k, 0.0), 0)
        most = tl.maximum(most, tl.max(tl.where(_finite(v), tl.abs(v), 0.0), 0))
    out_ptr += tl.program_id(0).to(tl.int64) * 2 * D + tl.arange(0, D)
    tl.store(out_ptr, total)
    tl.store(out_ptr + D, most)


@triton.jit(do_not_specialize=["chunks", "N"])
def mean_kernel(
    parts_ptr, mean_ptr, v_scales_ptr, chunks, N, MOST: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """The mean key of one head, and the power of two that its values are divided by."""
    head, dims = tl.program_id(0).to(tl.int64), tl.arange(0, D)
    total, most = tl.zeros([D], tl.float32), tl.zeros([D], tl.float32)
    for start in range(0, chunks, STEP):
        chunk = start + tl.arange(0, STEP)
        places = (head * chunks + chunk)[:, None] * 2 * D + dims[None, :]
        inside = (chunk < chunks)[:, None]
        total += tl.sum(tl.load(parts_ptr + places, mask=inside, other=0.0), 0)
        most = tl.maximum(most, tl.max(tl.load(parts_ptr + places + D, mask=inside, other=0.0), 0))
    tl.store(mean_ptr + head * D + dims, total / N)
    scale = tl.exp2(tl.ceil(tl.log2(tl.maximum(tl.max(most, 0) / MOST, 1.0))))
    tl.store(v_scales_ptr + head, scale)


@triton.jit
def _queries(
    q_ptr, mean_ptr, out_ptr, scales_ptr, shift_ptr, q_strides, head, block, heads, group, M, scale,
    D: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS queries of one head: int8, their scales, and what the mean key adds to their logits."""
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    rows, dims = block * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    q = _tokens(q_ptr, q_strides, b, h, rows, M, D, UNIT)
    finite = _finite(q)
    most = tl.maximum(tl.max(tl.where(finite, tl.abs(q), 0.0), 1), 1e-20)
    places = head.to(tl.int64) * M + rows
    tl.store(scales_ptr + places, most / 127.0, mask=rows < M)
    eight = _eight(tl.where(finite, q, 0.0), most[:, None])
    tl.store(out_ptr + places[:, None] * D + dims[None, :], eight, mask=(rows < M)[:, None])
    # What is not finite has no place in eight bits; here it makes the row's logits NaN.
    mean = tl.load(mean_ptr + (head // group).to(tl.int64) * D + dims)
    tl.store(shift_ptr + places, tl.sum(tl.where(finite, q, float("nan")) * mean[None, :], 1) * scale,
             mask=rows < M)  # fmt: skip


@triton.jit
def _keys_values(
    k_ptr, v_ptr, mean_ptr, v_scales_ptr, k_out_ptr, v_out_ptr, scales_ptr, k_strides, v_strides, head, block,
    heads, blocks, N, D: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One block of ROWS keys without their mean, in int8, their scale, and as many values in float16."""
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    rows, dims = block * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    inside = (rows < N)[:, None]
    k = _tokens(k_ptr, k_strides, b, h, rows, N, D, UNIT)
    # A block with a key that is not finite has NaN for its scale: so has each logit that it takes part in.
    whole = tl.min(tl.min(_finite(k).to(tl.int32), 1), 0)
    k = tl.where(inside & _finite(k), k - tl.load(mean_ptr + head.to(tl.int64) * D + dims)[None, :], 0.0)
    most = tl.maximum(tl.max(tl.max(tl.abs(k), 1), 0), 1e-20)
    tl.store(scales_ptr + head * blocks + block, tl.where(whole > 0, most / 127.0, float("nan")))
    places = (head.to(tl.int64) * N + rows)[:, None] * D + dims[None, :]
    tl.store(k_out_ptr + places, _eight(k, most), mask=inside)
    v = _tokens(v_ptr, v_strides, b, h, rows, N, D, UNIT) / tl.load(v_scales_ptr + head)
    tl.store(v_out_ptr + places, v.to(tl.float16), mask=inside)


@triton.jit(do_not_specialize=["q_programs", "heads", "group", "q_blocks", "kv_blocks", "M", "N", "scale"])
def quantise_kernel(
    q_ptr, k_ptr, v_ptr, mean_ptr, q_out_ptr, q_scales_ptr, shift_ptr, k_out_ptr, k_scales_ptr, v_out_ptr,
    v_scales_ptr, q_strides, k_strides, v_strides, q_programs, heads, group, q_blocks, kv_blocks, M, N, scale,
    D: tl.constexpr, UNIT: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """QUERIES queries in the first programs, a block of KEYS keys and their values in those behind them."""
    program = tl.program_id(0)
    if program < q_programs:
        _queries(q_ptr, mean_ptr, q_out_ptr, q_scales_ptr, shift_ptr, q_strides, program // q_blocks,
                 program % q_blocks, heads, group, M, scale, D, UNIT, QUERIES)  # fmt: skip
    else:
        program -= q_programs
        _keys_values(k_ptr, v_ptr, mean_ptr, v_scales_ptr, k_out_ptr, v_out_ptr, k_scales_ptr, k_strides,
                     v_strides, program // kv_blocks, program % kv_blocks, heads // group, kv_blocks, N, D,
                     UNIT, KEYS)  # fmt: skip


def operands(q: Tensor, k: Tensor, v: Tensor, columns: int, scale: float) -> Operands:
    """q [B, H, M, D], k and v [B, Hkv, N, D] in blocks of `columns` keys, as the kernel reads them."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    batch, heads, q_len, dim = q.shape
    _, kv_heads, kv_len, _ = k.shape
    chunks, unit = triton.cdiv(kv_len, STATISTICS_ROWS), unit_of(q, k, v)
    parts = k.new_empty(batch, kv_heads, chunks, 2, dim, dtype=torch.float32)
    launch(
        statistics_kernel, chunks * batch * kv_heads,
        k, v, parts, strides(k, unit), strides(v, unit), kv_heads, chunks, kv_len,
        D=dim, UNIT=unit, ROWS=STATISTICS_ROWS, TILE=64, num_warps=4,
    )  # fmt: skip
    mean = k.new_empty(batch, kv_heads, dim, dtype=torch.float32)
    v_scales = k.new_empty(batch, kv_heads, dtype=torch.float32)
    launch(
        mean_kernel, batch * kv_heads,
        parts, mean, v_scales, chunks, kv_len, MOST=MOST_HALF, D=dim, STEP=16, num_warps=4,
    )  # fmt: skip
    q_blocks, kv_blocks = triton.cdiv(q_len, QUERY_ROWS), triton.cdiv(kv_len, columns)
    found = Operands(
        q=torch.empty(batch, heads, q_len, dim, dtype=torch.int8, device=q.device),
        q_scales=q.new_empty(batch, heads, q_len, dtype=torch.float32),
        k=torch.empty(batch, kv_heads, kv_len, dim, dtype=torch.int8, device=k.device),
        k_scales=k.new_empty(batch, kv_heads, kv_blocks, dtype=torch.float32),
        v=v.new_empty(batch, kv_heads, kv_len, dim, dtype=torch.float16),
        v_scales=v_scales,
        shift=q.new_empty(batch, heads, q_len, dtype=torch.float32),
    )
    q_programs = q_blocks * batch * heads
    launch(
        quantise_kernel, q_programs + kv_blocks * batch * kv_heads,
        q, k, v, mean, found.q, found.q_scales, found.shift, found.k, found.k_scales, found.v, v_scales,
        *(strides(x, unit) for x in (q, k, v)), q_programs, heads, heads // kv_heads, q_blocks, kv_blocks,
        q_len, kv_len, scale, D=dim, UNIT=unit, QUERIES=QUERY_ROWS, KEYS=columns, num_warps=4,
    )  # fmt: skip
    return found
