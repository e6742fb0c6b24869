"""Random q, k, v of grouped heads, and dense causal attention over them."""

from __future__ import annotations

import torch
from torch import Tensor


def qkv(m: int, n: int, heads: int = 4, kv_heads: int = 2, dim: int = 16, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, m), (kv_heads, n), (kv_heads, n))
    return [torch.randn(batch, h, t, dim, generator=generator, dtype=torch.float64) for h, t in shapes]


def dense_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    seen = torch.arange(k.shape[2]) <= torch.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)
