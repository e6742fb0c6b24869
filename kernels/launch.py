"""How the Triton kernels are launched: tile, warps and stages by block and head dim, strides by tensor."""

from __future__ import annotations

import triton
from torch import Tensor


def launch_config(rows: int, columns: int, dim: int, itemsize: int) -> dict[str, int]:
    """Queries and keys in a tile, warps and stages for blocks of `rows` queries by `columns` keys.

    128 x 64 tiles were the fastest of the pointer kernels measured on an H200 (bf16, D 64 and 128). The rest
    is chosen so that nothing spills on sm_80 and sm_90: a block of 128 queries is two tiles at 256 dims, and
    four in float32, which has no tensor cores; dims that are no power of two need masks, and smaller tiles.
    """
    block_d = triton.next_power_of_2(dim)
    if itemsize == 4:
        return {"BLOCK_M": min(rows, 32), "BLOCK_N": min(columns, 16), "num_warps": 8, "num_stages": 2}
    tile_rows = min(rows, 128 if block_d <= 128 else 64)
    return {
        "BLOCK_M": tile_rows,
        "BLOCK_N": min(columns, 64 if dim == block_d <= 128 else 32),
        "num_warps": 8 if tile_rows * block_d >= 128 * 64 else 4,
        "num_stages": 3 if block_d <= 128 else 2,
    }


def strides(tensor: Tensor | None) -> tuple[int, ...]:
    """Strides of (sample, head, row), 0 where the tensor has one sample or head for all."""
    if tensor is None:
        return (0, 0, 0)
    b, h, row = tensor.stride()[:3]
    return (b if tensor.shape[0] > 1 else 0, h if tensor.shape[1] > 1 else 0, row)
