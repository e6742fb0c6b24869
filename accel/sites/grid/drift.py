"""Drift: how far a call's tokens have moved since its blocks were chosen (HEART's rule, arXiv 2605.14513)."""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels.layout.blocks import per_head
from accel.patches.head_share import HeadShare

ASKING = 0.4  # share of a layer's heads that have to drift before it chooses again


def head_means(q: Tensor, k: Tensor) -> Tensor:
    """The means over the tokens, of queries and of keys: float32 [B, H, 2 D].

    Args:
        q: [B, H, M, D]; k: [B, Hkv, N, D].
    """
    queries, keys = (tokens.mean(dim=2, dtype=torch.float32) for tokens in (q, k))
    return torch.cat([queries, per_head(keys, q.shape[1])], dim=-1)


def drift(then: Tensor, now: Tensor) -> Tensor:
    """Float32 [B, H]: how far the mean query and the mean key moved, for each channel, added up."""
    return (now - then).abs().mean(dim=-1) * 2


def has_drifted(then: Tensor, now: Tensor, most: float, heads: HeadShare | None) -> bool:
    """Whether enough heads of a layer drifted by more than `most`. Waits for the device.

    Args:
        heads: which of them are here; None if all are. Where some are elsewhere, every process must ask.
    """
    # Not the other way round: tokens that are not finite have drifted.
    asks = ~(drift(then, now) <= most)
    if heads is not None:
        asks = heads.gather(asks.to(torch.uint8)).bool()
    return bool(asks.float().mean() >= ASKING)
