"""Lines: the vertical and slash lines of attention that the last queries of a text show, and their blocks.

A vertical line is a key that all queries look at; a slash is a distance at which every query looks back.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 26


def probe_attention(q: Tensor, k: Tensor, probes: int) -> Tensor:
    """Float32 [B, H, P, N]: the exact causal attention of the last P = min(probes, M) queries."""
    last = q[:, :, -probes:]
    kv_len = k.shape[2]
    return attention_of(last, k, torch.arange(kv_len - last.shape[2], kv_len, device=q.device))


def attention_of(rows: Tensor, k: Tensor, positions: Tensor) -> Tensor:
    """Float32 [B, H, P, N]: the causal attention of queries [B, H, P, D] at positions, int64 [..., P]."""
    batch, heads, count, dim = rows.shape
    kv_heads, kv_len = k.shape[1:3]
    grouped = (rows * dim**-0.5).reshape(batch, kv_heads, heads // kv_heads * count, dim)
    logits = (grouped @ k.transpose(-1, -2)).float().reshape(batch, heads, count, kv_len)
    future = torch.arange(kv_len, device=k.device) > positions[..., None]
    return logits.masked_fill(future, -torch.inf).softmax(dim=-1)


def by_key_heads(q: Tensor, k: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """q [B, H, M, D] and k [B, Hkv, N, D] by some key heads at a time, so many that the attention of `rows`
    queries fits in memory."""
    groups = q.shape[1] // k.shape[1]
    at_once = max(1, CHUNK_ELEMENTS // (q.shape[0] * groups * rows * k.shape[2]))
    for first in range(0, k.shape[1], at_once):
        last = min(first + at_once, k.shape[1])
        yield q[:, first * groups : last * groups], k[:, first:last]


def distances(rows: int, kv_len: int, device: torch.device) -> Tensor:
    """Int64 [P, N]: how far before each of the last P queries each key is; negative in its future."""
    position = torch.arange(kv_len - rows, kv_len, device=device)
    return position[:, None] - torch.arange(kv_len, device=device)


def line_sums(q: Tensor, k: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """Float32 [B, H, N] each: the probes' attention to every key, and at every distance; heads in chunks.

    Each sums to the number of probes.
    """
    columns, slashes = [], []
    for some_q, some_k in by_key_heads(q, k, min(probes, q.shape[2])):
        attention = probe_attention(some_q, some_k, probes)
        columns.append(attention.sum(dim=2))
        # A row that looks at a distance d looks at the key d to the left of its own.
        key = distances(attention.shape[2], k.shape[2], q.device)
        at_distance = attention.gather(3, key.clamp(min=0).expand_as(attention))
        slashes.append(at_distance.masked_fill(key < 0, 0).sum(dim=2))
    return torch.cat(columns, dim=1), torch.cat(slashes, dim=1)


def blocks_of_lines(columns: Tensor, slashes: Tensor, block_size: tuple[int, int], q_len: int) -> Tensor:
    """Bool [B, H, Mb, Nb]: the blocks that a chosen key or distance, bool [B, H, N] each, runs through."""
    rows, width = block_size
    kv_len = columns.shape[2]
    device = columns.device
    missing = -kv_len % width
    vertical = torch.nn.functional.pad(columns, (0, missing)).unflatten(-1, (-1, width)).any(dim=-1)
    first_query = torch.arange(0, q_len, rows, device=device)[:, None]
    last_query = (first_query + rows).clamp(max=q_len) - 1 + kv_len - q_len
    first_query = first_query + kv_len - q_len
    first_key = torch.arange(0, kv_len, width, device=device)
    last_key = (first_key + width).clamp(max=kv_len) - 1
    nearest = (first_query - last_key).clamp(min=0)  # [Mb, Nb]
    farthest = (last_query - first_key).clamp(min=-1)
    up_to = torch.nn.functional.pad(slashes.int().cumsum(dim=-1, dtype=torch.int32), (1, 0))
    through = up_to[..., farthest + 1] > up_to[..., nearest.minimum(farthest + 1)]
    return (vertical[:, :, None] & (farthest >= 0)) | through
