"""Scores of single keys that a search asks for, gathered row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.order import TokenOrder


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
    return _queries(q, rows, block, every_stride(block, stride, q.device)).float()


def every_stride(block: int, stride: int, device: torch.device) -> Tensor:
    """Int64 [S]: the last of every `stride` tokens of a block."""
    step = min(stride, block)
    return torch.arange(step - 1, block, step, device=device)


def per_block(block: int, stride: int) -> int:
    """How many tokens represent a block in a kernel: `every_stride` and its last again, to a power of two."""
    return 1 << (block // min(stride, block) - 1).bit_length()


def representatives(tokens: Tensor, order: TokenOrder | None, block: int, stride: int) -> Tensor:
    """[B, H, blocks * `per_block`, D]: the tokens that represent each block, for a kernel.

    Args:
        tokens: [B, H, N, D], of which blocks are cut in this order, the same for all heads.
    """
    places = _representative_places(tokens.shape[2], block, stride, tokens.device)
    return tokens.index_select(2, places if order is None else order.indices[places])


@from_sizes()
def _representative_places(length: int, block: int, stride: int, device: torch.device) -> Tensor:
    inside = every_stride(block, stride, torch.device("cpu"))
    inside = inside[torch.arange(per_block(block, stride)).clamp(max=len(inside) - 1)]
    return (torch.arange(0, length, block)[:, None] + inside).clamp(max=length - 1).flatten().to(device)


def mean_queries(q: Tensor, rows: slice, block: int, stride: int) -> Tensor:
    """Float32 [B, H, R, S, D]: means of every `stride` consecutive queries of each block in `rows`."""
    queries = _queries(q, rows, block, torch.arange(block, device=q.device))
    return queries.unflatten(3, (-1, min(stride, block))).mean(dim=4, dtype=torch.float32)


def _queries(q: Tensor, rows: slice, block: int, inside: Tensor) -> Tensor:
    """[B, H, R, S, D]; in a partial last block the last query repeats."""
    first = torch.arange(rows.start, rows.stop, device=q.device) * block
    index = (first[:, None] + inside).clamp(max=q.shape[2] - 1)
    return q[:, :, index]
