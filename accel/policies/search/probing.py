"""Scores of single keys that a search asks for, gathered row by row."""

from __future__ import annotations

import torch
from torch import Tensor


def best_logits(queries: Tensor, k: Tensor, keys: Tensor) -> Tensor:
    """Float32 [B, H, R, C]: the largest product of a row's queries with each key it asks for.

    Args:
        queries: float32 [B, H, R, S, D].
        k: [B, Hkv, N, D].
        keys: int64, broadcasting to [B, H, R, C]; beyond N means the last.
    """
    batch, heads, rows = queries.shape[:3]
    keys = keys.clamp(max=k.shape[2] - 1).expand(batch, heads, rows, -1)
    index = keys.reshape(batch, k.shape[1], -1, 1).expand(-1, -1, -1, k.shape[3])
    gathered = k.gather(2, index).reshape(batch, heads, rows, -1, k.shape[3]).float()
    return (queries @ gathered.transpose(-1, -2)).amax(dim=3)


def strided_queries(q: Tensor, rows: slice, block: int, stride: int) -> Tensor:
    """Float32 [B, H, R, S, D]: the last of every `stride` queries of each block in `rows`."""
    step = min(stride, block)
    return _queries(q, rows, block, torch.arange(step - 1, block, step, device=q.device)).float()


def mean_queries(q: Tensor, rows: slice, block: int, stride: int) -> Tensor:
    """Float32 [B, H, R, S, D]: means of every `stride` consecutive queries of each block in `rows`."""
    queries = _queries(q, rows, block, torch.arange(block, device=q.device))
    return queries.unflatten(3, (-1, min(stride, block))).mean(dim=4, dtype=torch.float32)


def _queries(q: Tensor, rows: slice, block: int, inside: Tensor) -> Tensor:
    """[B, H, R, S, D]; in a partial last block the last query repeats."""
    first = torch.arange(rows.start, rows.stop, device=q.device) * block
    index = (first[:, None] + inside).clamp(max=q.shape[2] - 1)
    return q[:, :, index]
