# mypy: disallow-untyped-defs=False
"""mean_pool in Triton: one pass over the tokens in their own type and strides, sums in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import strides


@triton.jit
def store_mean(tokens_ptr, means_ptr, token_strides, b, h, rows, present, count, D: tl.constexpr,
               BLOCK_D: tl.constexpr):  # fmt: skip
    """The mean of the tokens at `rows` of one head that are present; 0 where none is."""
    dims = tl.arange(0, BLOCK_D)
    tokens_ptr += b * token_strides[0] + h * token_strides[1]
    places = rows[:, None].to(tl.int64) * token_strides[2] + dims[None, :]
    tokens = tl.load(tokens_ptr + places, mask=present[:, None] & (dims < D)[None, :], other=0.0)
    mean = tl.sum(tokens.to(tl.float32), 0) / count
    tl.store(means_ptr + dims, mean.to(means_ptr.dtype.element_ty), mask=dims < D)


@triton.jit
def mean_pool_kernel(
    tokens_ptr, means_ptr, tokens_strides, heads, N, ROWS: tl.constexpr, D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The mean of one block of one head."""
    block = tl.program_id(0)
    b, h = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    rows = tl.arange(0, BLOCK_ROWS)
    count = tl.minimum(ROWS, N - block * ROWS)
    place = (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + block) * D
    store_mean(
        tokens_ptr,
        means_ptr + place,
        tokens_strides,
        b,
        h,
        block * ROWS + rows,
        rows < count,
        count,
        D,
        BLOCK_D,
    )


def mean_pool(tokens: Tensor, rows: int) -> Tensor:
    """What `mean_pool.mean_pool` computes, float32, for any type but float64."""
    batch, heads, length, dim = tokens.shape
    tokens = tokens if tokens.stride(-1) == 1 else tokens.contiguous()
    means = tokens.new_empty(batch, heads, triton.cdiv(length, rows), dim, dtype=torch.float32)
    mean_pool_kernel[(means.shape[2], batch * heads)](
        tokens, means, strides(tokens), heads, length,
        ROWS=rows, D=dim, BLOCK_ROWS=triton.next_power_of_2(rows), BLOCK_D=triton.next_power_of_2(dim),
    )  # fmt: skip
    return means
