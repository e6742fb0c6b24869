# mypy: disallow-untyped-defs=False
"""Mean keys and values of every block in Triton: one launch, one pass over both, padding left out."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.attention.mean_pool_triton import store_mean
from accel.kernels.launch import strides
from accel.kernels.layout.order import TokenOrder, by_head


@triton.jit
def tail_means_kernel(
    k_ptr, v_ptr, mean_k_ptr, mean_v_ptr, lengths_ptr, positions_ptr, k_strides, v_strides,
    position_strides, heads, N, ROWS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Both means of one block of one head."""
    block = tl.program_id(0)
    b, h = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    rows = block * ROWS + tl.arange(0, ROWS)
    present = rows < N
    if lengths_ptr is not None:
        positions = rows
        if positions_ptr is not None:
            positions_ptr += b * position_strides[0] + h * position_strides[1]
            positions = tl.load(positions_ptr + rows, mask=present, other=N)
        present = present & (positions < tl.load(lengths_ptr + b))
    count = tl.maximum(tl.sum(present.to(tl.int32), 0), 1)
    place = (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + block) * D
    store_mean(k_ptr, mean_k_ptr + place, k_strides, b, h, rows, present, count, D, BLOCK_D)
    store_mean(v_ptr, mean_v_ptr + place, v_strides, b, h, rows, present, count, D, BLOCK_D)


def tail_means(
    k: Tensor, v: Tensor, columns: int, lengths: Tensor | None, order: TokenOrder | None
) -> tuple[Tensor, Tensor]:
    """What `tail.tail_means` computes of k and v [B, Hkv, N, D] in `order`, in their type.

    Args:
        lengths: int32 [B]; tokens at positions from there on are padding.
    """
    batch, heads, length, dim = k.shape
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    blocks = triton.cdiv(length, columns)
    mean_k, mean_v = (x.new_empty(batch, heads, blocks, dim) for x in (k, v))
    positions = None if lengths is None else by_head(order)
    tail_means_kernel[(blocks, batch * heads)](
        k, v, mean_k, mean_v, lengths, positions, strides(k), strides(v), strides(positions), heads, length,
        ROWS=columns, D=dim, BLOCK_D=triton.next_power_of_2(dim), num_warps=8,
    )  # fmt: skip
    return mean_k, mean_v
