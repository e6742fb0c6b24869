"""mean_pool: the mean of every block of tokens, the feature that methods score blocks by."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_pool(tokens: Tensor, rows: int) -> Tensor:
    """[B, H, N, D] -> [B, H, ceil(N / rows), D]: means of blocks of `rows` tokens, the last of what is left.

    Summed and returned in float32 (float64 for float64): half precision ties blocks that are not alike.

    Raises:
        ValueError: if `tokens` is not four-dimensional or `rows` is below 1.
    """
    if tokens.ndim != 4 or rows < 1:
        raise ValueError(f"expected tokens [B, H, N, D] and rows >= 1, got {tuple(tokens.shape)} and {rows}")
    if tokens.is_cuda and tokens.dtype != torch.float64:
        from accel.kernels.attention import mean_pool_triton as triton_mean_pool

        with torch.cuda.device_of(tokens):
            return triton_mean_pool.mean_pool(tokens, rows)
    wide = torch.promote_types(tokens.dtype, torch.float32)
    whole = tokens.shape[2] // rows * rows
    means = tokens[:, :, :whole].unflatten(2, (-1, rows)).mean(dim=3, dtype=wide)
    if whole == tokens.shape[2]:
        return means
    return torch.cat([means, tokens[:, :, whole:].mean(dim=2, keepdim=True, dtype=wide)], dim=2)
