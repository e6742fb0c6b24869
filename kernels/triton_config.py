"""How the Triton kernels are launched: tile, warps and stages by block and head dim, strides by tensor."""

from __future__ import annotations

import triton
from torch import Tensor


def launch_config(rows: int, columns: int, dim: int, itemsize: int) -> dict[str, int]:
    """Keys in a tile, warps and stages for blocks of `rows` queries by `columns` keys.

    128 x 64 tiles were the fastest of the pointer kernels measured on an H200 (bf16, D 64 and 128). Warps are
    as many as keep the scores and the accumulator in registers; float32 has no tensor cores and small tiles.
    """
    block_d = triton.next_power_of_2(dim)
    small = block_d <= 128 and itemsize == 2
    return {
        "BLOCK_N": min(columns, 64 if small else 32 if itemsize == 2 else 16),
        "num_warps": 8 if rows * block_d >= 128 * 64 else 4,
        "num_stages": 3 if small else 2,
    }


def strides(tensor: Tensor | None) -> tuple[int, ...]:
    """Strides of (sample, head, row), 0 where the tensor has one sample or head for all."""
    if tensor is None:
        return (0, 0, 0)
    b, h, row = tensor.stride()[:3]
    return (b if tensor.shape[0] > 1 else 0, h if tensor.shape[1] > 1 else 0, row)
