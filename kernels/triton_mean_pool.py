# mypy: disallow-untyped-defs=False
"""mean_pool in Triton: one pass over the tokens in their own type and strides, sums in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.triton_config import strides


@triton.jit
def mean_pool_kernel(
    tokens_ptr, means_ptr, tokens_strides, heads, N, ROWS: tl.constexpr, D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The mean of one block of one head."""
    block = tl.program_id(0)
    b, h = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    rows, dims = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_D)
    count = tl.minimum(ROWS, N - block * ROWS)
    tokens_ptr += b * tokens_strides[0] + h * tokens_strides[1]
    places = (block * ROWS + rows)[:, None].to(tl.int64) * tokens_strides[2] + dims[None, :]
    tokens = tl.load(tokens_ptr + places, mask=(rows < count)[:, None] & (dims < D)[None, :], other=0.0)
    mean = tl.sum(tokens.to(tl.float32), 0) / count
    tl.store(
        means_ptr + (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + block) * D + dims,
        mean,
        mask=dims < D,
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
