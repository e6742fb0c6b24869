# mypy: disallow-untyped-defs=False
"""Operands of the FP8 kernel in Triton: a pass over keys and values for their scales, a pass to write.

Bit for bit what `fp8_attention.quantise` computes, but for the mean key, whose sum has another order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.fp8_attention import E4M3, LARGEST, LEAST
from accel.kernels.hopper_fp8_operands import WIDTH, Operands
from accel.kernels.triton_config import strides

E4M3_LARGEST = tl.constexpr(LARGEST)
LEAST_LARGEST = tl.constexpr(LEAST)
STATISTICS_ROWS = 1024  # of one program


@triton.jit
def _tokens(ptr, token_strides, b, h, rows, N, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Float32 [rows, BLOCK_D] of one head; NaN beyond N and D."""
    dims = tl.arange(0, BLOCK_D)
    ptr += b.to(tl.int64) * token_strides[0] + h.to(tl.int64) * token_strides[1]
    places = rows[:, None].to(tl.int64) * token_strides[2] + dims[None, :]
    inside = (rows < N)[:, None] & (dims < D)[None, :]
    return tl.load(ptr + places, mask=inside, other=float("nan")).to(tl.float32)


@triton.jit
def _finite(tokens):
    return tl.abs(tokens) < float("inf")


@triton.jit
def _scaled(tokens, factor):
    """`tokens` times `factor`, within the range of e4m3; NaN where they are not finite."""
    scaled = tl.minimum(tl.maximum(tokens * factor, -E4M3_LARGEST), E4M3_LARGEST)
    return tl.where(_finite(tokens), scaled, float("nan"))


@triton.jit
def statistics_kernel(
    k_ptr, v_ptr, out_ptr, k_strides, v_strides, heads, N,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """ROWS tokens of one head, by channel: sum, least and largest of keys, largest magnitude of values."""
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    total, most_v = tl.zeros([BLOCK_D], tl.float32), tl.zeros([BLOCK_D], tl.float32)
    least, most = total + float("inf"), total - float("inf")
    for start in range(0, ROWS, TILE):
        rows = tl.program_id(0) * ROWS + start + tl.arange(0, TILE)
        k = _tokens(k_ptr, k_strides, b, h, rows, N, D, BLOCK_D)
        v = _tokens(v_ptr, v_strides, b, h, rows, N, D, BLOCK_D)
        finite = _finite(k)
        total += tl.sum(tl.where(finite, k, 0.0), 0)
        least = tl.minimum(least, tl.min(tl.where(finite, k, float("inf")), 0))
        most = tl.maximum(most, tl.max(tl.where(finite, k, -float("inf")), 0))
        most_v = tl.maximum(most_v, tl.max(tl.where(_finite(v), tl.abs(v), 0.0), 0))
    dims = tl.arange(0, BLOCK_D)
    out_ptr += (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 4 * D + dims
    tl.store(out_ptr, total, mask=dims < D)
    tl.store(out_ptr + D, least, mask=dims < D)
    tl.store(out_ptr + 2 * D, most, mask=dims < D)
    tl.store(out_ptr + 3 * D, most_v, mask=dims < D)


@triton.jit
def queries_kernel(
    q_ptr, mean_ptr, out_ptr, scales_ptr, shift_ptr, q_strides, heads, group, M, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One block of ROWS queries: e4m3, their scale, and what the mean key adds to their logits."""
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    rows, dims = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    q = _tokens(q_ptr, q_strides, b, h, rows, M, D, BLOCK_D)
    most = tl.maximum(tl.max(tl.where(_finite(q), tl.abs(q), 0.0)), LEAST_LARGEST)
    tl.store(scales_ptr + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), most / E4M3_LARGEST)
    inside = (rows < M)[:, None] & (dims < D)[None, :]
    places = (tl.program_id(1).to(tl.int64) * M + rows)[:, None] * D + dims[None, :]
    tl.store(out_ptr + places, _scaled(q, tl.div_rn(E4M3_LARGEST, most)), mask=inside)
    mean = tl.load(mean_ptr + tl.program_id(1) // group * D + dims, mask=dims < D, other=0.0)
    shift = tl.sum(tl.where(inside, q, 0.0) * mean[None, :], 1) * scale
    tl.store(shift_ptr + tl.program_id(1).to(tl.int64) * M + rows, shift, mask=rows < M)


@triton.jit
def keys_values_kernel(
    k_ptr, v_ptr, mean_ptr, k_most_ptr, v_most_ptr, k_out_ptr, v_out_ptr, k_strides, v_strides, heads, N,
    width, D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS keys without their mean, in rows, and as many values in columns, in the places of the kernel."""
    head = tl.program_id(1)
    b, h = head // heads, head % heads
    places, dims = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    in_dims = dims < D
    k = _tokens(k_ptr, k_strides, b, h, places, N, D, BLOCK_D)
    mean = tl.load(mean_ptr + head * D + dims, mask=in_dims, other=0.0)
    factor = tl.div_rn(E4M3_LARGEST, tl.load(k_most_ptr + head))
    k_out_ptr += (head.to(tl.int64) * N + places)[:, None] * D + dims[None, :]
    tl.store(k_out_ptr, _scaled(k - mean[None, :], factor), mask=(places < N)[:, None] & in_dims[None, :])
    # Place 4 t + 2 j + e of sixteen is token 8 j + 2 t + e: see `hopper_fp8_kernel._pack`.
    tokens = places // 16 * 16 + places % 4 // 2 * 8 + places % 16 // 4 * 2 + places % 2
    v = _tokens(v_ptr, v_strides, b, h, tokens, N, D, BLOCK_D)
    v = tl.where((tokens < N)[:, None], v, 0.0)
    factors = tl.div_rn(E4M3_LARGEST, tl.load(v_most_ptr + head * D + dims, mask=in_dims, other=1.0))
    v_out_ptr += (head.to(tl.int64) * D + dims)[:, None] * width + places[None, :]
    eight = _scaled(v, factors[None, :]).to(v_out_ptr.dtype.element_ty)
    tl.store(v_out_ptr, tl.trans(eight), mask=in_dims[:, None] & (places < width)[None, :])


def operands(q: Tensor, k: Tensor, v: Tensor, rows: int, scale: float) -> Operands:
    """What `hopper_fp8_operands.operands` computes, without waiting for the device."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    batch, heads, q_len, dim = q.shape
    _, kv_heads, kv_len, _ = k.shape
    sizes = {"D": dim, "BLOCK_D": triton.next_power_of_2(dim)}
    chunks = triton.cdiv(kv_len, STATISTICS_ROWS)
    parts = k.new_empty(batch, kv_heads, chunks, 4, dim, dtype=torch.float32)
    statistics_kernel[(chunks, batch * kv_heads)](
        k, v, parts, strides(k), strides(v), kv_heads, kv_len, ROWS=STATISTICS_ROWS, TILE=32, **sizes
    )
    mean = parts[:, :, :, 0].sum(dim=2) / kv_len  # [B, Hkv, D]
    spread = torch.maximum(parts[:, :, :, 2].amax(dim=2) - mean, mean - parts[:, :, :, 1].amin(dim=2))
    k_most, v_most = spread.amax(dim=2).clamp(min=LEAST), parts[:, :, :, 3].amax(dim=2).clamp(min=LEAST)

    eight_q = q.new_empty(batch, heads, q_len, dim, dtype=E4M3)
    q_scales = q.new_empty(batch, heads, triton.cdiv(q_len, rows), dtype=torch.float32)
    shift = q.new_empty(batch, heads, q_len, dtype=torch.float32)
    queries_kernel[(q_scales.shape[2], batch * heads)](
        q, mean, eight_q, q_scales, shift, strides(q), heads, heads // kv_heads, q_len, scale,
        ROWS=rows, num_warps=8, **sizes,
    )  # fmt: skip
    width = triton.cdiv(kv_len, WIDTH) * WIDTH
    eight_k = k.new_empty(batch, kv_heads, kv_len, dim, dtype=E4M3)
    eight_v = v.new_empty(batch, kv_heads, dim, width, dtype=E4M3)
    keys_values_kernel[(triton.cdiv(width, 64), batch * kv_heads)](
        k, v, mean, k_most, v_most, eight_k, eight_v, strides(k), strides(v), kv_heads, kv_len, width,
        ROWS=64, **sizes,
    )  # fmt: skip
    return Operands(eight_q, q_scales, eight_k, k_most / LARGEST, eight_v, v_most / LARGEST, shift)
