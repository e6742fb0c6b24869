# mypy: disallow-untyped-defs=False
"""Operands of the FP8 kernel in Triton: a pass over keys and values for their scales, a pass to write.

What `specification.quantise` computes; where it sums, in rotations and in the mean key, in another order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.fp8.operands import WIDTH, Operands
from accel.kernels.fp8.specification import E4M3, LARGEST, LEAST
from accel.kernels.launch import launch, strides

E4M3_LARGEST = tl.constexpr(LARGEST)
LEAST_LARGEST = tl.constexpr(LEAST)
STATISTICS_ROWS = 1024  # of one program


@triton.jit
def _tokens(ptr, token_strides, b, h, rows, N, D: tl.constexpr):
    """[rows, D] of one head; NaN beyond N."""
    dims = tl.arange(0, D)
    ptr += b.to(tl.int64) * token_strides[0] + h.to(tl.int64) * token_strides[1]
    places = rows[:, None].to(tl.int64) * token_strides[2] + dims[None, :]
    return tl.load(ptr + places, mask=(rows < N)[:, None], other=float("nan"))


@triton.jit
def _rotated(tokens, D: tl.constexpr, NORM: tl.constexpr):
    """Float32 `tokens` times the Hadamard matrix of D and NORM, 1 / sqrt(D)."""
    channels = tl.arange(0, D)
    odd = channels[:, None] & channels[None, :]
    odd ^= odd >> 4
    odd ^= odd >> 2
    odd ^= odd >> 1
    return tl.dot(tokens, (1 - 2 * (odd & 1)).to(tokens.dtype)) * NORM


@triton.jit
def _finite(tokens):
    return tl.abs(tokens) < float("inf")


@triton.jit
def _scaled(tokens, factor):
    """`tokens` times `factor`, within the range of e4m3; NaN where they are not finite."""
    scaled = tl.minimum(tl.maximum(tokens * factor, -E4M3_LARGEST), E4M3_LARGEST)
    return tl.where(_finite(tokens), scaled, float("nan"))


@triton.jit(do_not_specialize=["heads", "chunks", "N"])
def statistics_kernel(
    k_ptr, v_ptr, out_ptr, k_strides, v_strides, heads, chunks, N,
    D: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """ROWS tokens of one head, by channel: sum, least and largest of rotated keys, largest size of values."""
    head, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    b, h = head // heads, head % heads
    total, most_v = tl.zeros([TILE, D], tl.float32), tl.zeros([D], tl.float32)
    least, most = total + float("inf"), total - float("inf")
    for start in range(0, ROWS, TILE):
        rows = chunk * ROWS + start + tl.arange(0, TILE)
        k = _rotated(_tokens(k_ptr, k_strides, b, h, rows, N, D), D, NORM)
        v = _tokens(v_ptr, v_strides, b, h, rows, N, D).to(tl.float32)
        finite = _finite(k)
        total += tl.where(finite, k, 0.0)
        least = tl.minimum(least, tl.where(finite, k, float("inf")))
        most = tl.maximum(most, tl.where(finite, k, -float("inf")))
        most_v = tl.maximum(most_v, tl.max(tl.where(_finite(v), tl.abs(v), 0.0), 0))
    out_ptr += tl.program_id(0).to(tl.int64) * 4 * D
    out_ptr += tl.arange(0, D)
    tl.store(out_ptr, tl.sum(total, 0))
    tl.store(out_ptr + D, tl.min(least, 0))
    tl.store(out_ptr + 2 * D, tl.max(most, 0))
    tl.store(out_ptr + 3 * D, most_v)


@triton.jit(do_not_specialize=["heads", "group", "blocks", "M", "scale"])
def queries_kernel(
    q_ptr, mean_ptr, out_ptr, scales_ptr, shift_ptr, q_strides, heads, group, blocks, M, scale,
    D: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One block of ROWS queries: e4m3, their scale, and what the mean key adds to their logits."""
    head = tl.program_id(0) // blocks
    rows, dims = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    q = _rotated(_tokens(q_ptr, q_strides, head // heads, head % heads, rows, M, D), D, NORM)
    most = tl.maximum(tl.max(tl.where(_finite(q), tl.abs(q), 0.0)), LEAST_LARGEST)
    tl.store(scales_ptr + tl.program_id(0), most / E4M3_LARGEST)
    places = head.to(tl.int64) * M + rows
    eight = _scaled(q, tl.div_rn(E4M3_LARGEST, most))
    tl.store(out_ptr + places[:, None] * D + dims[None, :], eight, mask=(rows < M)[:, None])
    shift = tl.sum(q * tl.load(mean_ptr + head // group * D + dims)[None, :], 1) * scale
    tl.store(shift_ptr + places, shift, mask=rows < M)


@triton.jit(do_not_specialize=["heads", "N", "width"])
def keys_values_kernel(
    k_ptr, v_ptr, mean_ptr, k_most_ptr, v_most_ptr, k_out_ptr, v_out_ptr, k_strides, v_strides, heads, N,
    width, D: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS keys without their mean, in rows, and as many values in columns, in the places of the kernel."""
    groups = tl.cdiv(width, ROWS)
    head = tl.program_id(0) // groups
    b, h = head // heads, head % heads
    places, dims = tl.program_id(0) % groups * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    k = _rotated(_tokens(k_ptr, k_strides, b, h, places, N, D), D, NORM)
    k -= tl.load(mean_ptr + head * D + dims)[None, :]
    k_out_ptr += (head.to(tl.int64) * N + places)[:, None] * D + dims[None, :]
    factor = tl.div_rn(E4M3_LARGEST, tl.load(k_most_ptr + head))
    tl.store(k_out_ptr, _scaled(k, factor), mask=(places < N)[:, None])
    # Place 4 t + 2 j + e of sixteen is token 8 j + 2 t + e: see `kernel._pack`.
    tokens = places // 16 * 16 + places % 4 // 2 * 8 + places % 16 // 4 * 2 + places % 2
    v = _tokens(v_ptr, v_strides, b, h, tokens, N, D).to(tl.float32)
    v = tl.where((tokens < N)[:, None], v, 0.0)
    factors = tl.div_rn(E4M3_LARGEST, tl.load(v_most_ptr + head * D + dims))
    eight = _scaled(v, factors[None, :]).to(v_out_ptr.dtype.element_ty)
    v_out_ptr += (head.to(tl.int64) * D + dims)[:, None] * width + places[None, :]
    tl.store(v_out_ptr, tl.trans(eight), mask=(places < width)[None, :])


def operands(q: Tensor, k: Tensor, v: Tensor, rows: int, scale: float) -> Operands:
    """What `operands.operands` computes, without waiting for the device."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    batch, heads, q_len, dim = q.shape
    _, kv_heads, kv_len, _ = k.shape
    sizes = {"D": dim, "NORM": dim**-0.5, "num_warps": 8}
    chunks = triton.cdiv(kv_len, STATISTICS_ROWS)
    parts = k.new_empty(batch, kv_heads, chunks, 4, dim, dtype=torch.float32)
    launch(
        statistics_kernel, chunks * batch * kv_heads,
        k, v, parts, strides(k), strides(v), kv_heads, chunks, kv_len,
        ROWS=STATISTICS_ROWS, TILE=32, num_stages=2, **sizes,
    )  # fmt: skip
    mean = parts[:, :, :, 0].sum(dim=2) / kv_len  # [B, Hkv, D]
    spread = torch.maximum(parts[:, :, :, 2].amax(dim=2) - mean, mean - parts[:, :, :, 1].amin(dim=2))
    k_most, v_most = spread.amax(dim=2).clamp(min=LEAST), parts[:, :, :, 3].amax(dim=2).clamp(min=LEAST)

    eight_q = q.new_empty(batch, heads, q_len, dim, dtype=E4M3)
    q_scales = q.new_empty(batch, heads, triton.cdiv(q_len, rows), dtype=torch.float32)
    shift = q.new_empty(batch, heads, q_len, dtype=torch.float32)
    launch(
        queries_kernel, q_scales.numel(),
        q, mean, eight_q, q_scales, shift, strides(q), heads, heads // kv_heads, q_scales.shape[2], q_len,
        scale, ROWS=rows, **sizes,
    )  # fmt: skip
    width = triton.cdiv(kv_len, WIDTH) * WIDTH
    eight_k = k.new_empty(batch, kv_heads, kv_len, dim, dtype=E4M3)
    eight_v = v.new_empty(batch, kv_heads, dim, width, dtype=E4M3)
    launch(
        keys_values_kernel, triton.cdiv(width, 64) * batch * kv_heads,
        k, v, mean, k_most, v_most, eight_k, eight_v, strides(k), strides(v), kv_heads, kv_len, width,
        ROWS=64, **sizes,
    )  # fmt: skip
    return Operands(eight_q, q_scales, eight_k, k_most / LARGEST, eight_v, v_most / LARGEST, shift)
