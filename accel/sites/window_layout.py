"""Sliding windows: the blocks that a causal window reaches, which is all that such a layer ever reads."""

from __future__ import annotations

import math

import torch

from accel.kernels.layout.layout import BlockLayout

BLOCK_SIZE = (128, 64)


def window_layout(q_len: int, kv_len: int, window: int, device: torch.device) -> BlockLayout:
    """The layout under which block-sparse attention is exactly causal attention with a window.

    Lists are shared by samples and heads, and as long as a window, not as the sequence. No device read.
    """
    rows, columns = BLOCK_SIZE
    first_query = torch.arange(0, q_len, rows, device=device)
    last_query = (first_query + rows).clamp(max=q_len) - 1
    offset = kv_len - q_len
    first = (first_query + offset - window + 1).clamp(min=0) // columns
    last = (last_query + offset) // columns
    longest = min(math.ceil((window + rows) / columns) + 1, math.ceil(kv_len / columns))
    lists = first[:, None] + torch.arange(longest, device=device)
    return BlockLayout(
        lists.int()[None, None],
        (last - first + 1).int()[None, None],
        BLOCK_SIZE,
        q_len,
        kv_len,
        causal=True,
        window=window,
    )
