"""Block-sparse attention in eight bits: what an FP8 kernel would compute, in PyTorch, to know its error.

Queries, keys, values and weights are rounded to e4m3, a scale for each block of a head. Keys lose their mean
first, which shifts each row's logits alike and leaves the softmax as it is (arXiv 2410.02367); what is common
to all keys then takes no part of the eight bits. Sums are those of the unrounded weights, in float32
(arXiv 2407.08608). A specification, not a tier: it is nowhere chosen, and as slow as the reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.block_order import to_block_order
from accel.kernels.blocks import per_head
from accel.kernels.layout import BlockLayout
from accel.kernels.order import TokenOrder

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448
WEIGHT_SCALE = 256.0  # weights are at most 1


def quantise(tokens: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """e4m3 [B, H, N, D] and float32 scales [B, H, blocks]: a token is its block's scale times its numbers.

    A block of zeros has scale 1. Only finite tokens have a meaning.
    """
    length = tokens.shape[2]
    blocks = F.pad(tokens.float(), (0, 0, 0, -length % rows)).unflatten(2, (-1, rows))
    scales = blocks.abs().amax(dim=(3, 4)) / LARGEST
    scales = scales.where(scales > 0, 1.0)
    eight = (blocks / scales[..., None, None]).clamp(-LARGEST, LARGEST).to(E4M3)
    return eight.flatten(2, 3)[:, :, :length], scales


def dequantise(eight: Tensor, scales: Tensor, rows: int) -> Tensor:
    """Float32 [B, H, N, D] of what `quantise` returned."""
    return eight.float() * scales.repeat_interleave(rows, dim=2)[:, :, : eight.shape[2], None]


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    *,
    scale: float | None = None,
    return_lse: bool = False,
    smooth: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """What `reference.block_sparse_attention` computes, with the rounding of an FP8 kernel.

    Args:
        smooth: take the mean key from the keys first; False shows what that is worth.

    Raises:
        ValueError: for a layout with a tail, whose means are no part of this.
    """
    if layout.tail:
        raise ValueError("the FP8 specification has no tail")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    heads, (rows, columns) = q.shape[1], layout.block_size
    mean = k.float().mean(dim=2, keepdim=True) if smooth else torch.zeros_like(k[:, :, :1]).float()
    shift = q.float() @ per_head(mean, heads).transpose(-1, -2) * scale  # [B, H, M, 1]
    kind = q.dtype
    q, k, v = to_block_order(q, k.float() - mean, v, layout)
    q = _in_sequence(dequantise(*quantise(q, rows), rows), layout.q_order)
    k, v = (_in_sequence(dequantise(*quantise(x, columns), columns), layout.kv_order) for x in (k, v))
    k, v = per_head(k, heads), per_head(v, heads)
    scores = q @ k.transpose(-1, -2) * scale
    scores = scores.masked_fill(~per_head(layout.to_mask(q.shape[0]), heads), -torch.inf)
    most = scores.amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
    weights = (scores - most).exp()
    total = weights.sum(dim=-1, keepdim=True)
    eight = (weights * WEIGHT_SCALE).to(E4M3).float() / WEIGHT_SCALE
    out = (eight @ v / total.where(total > 0, 1.0)).to(kind)
    return (out, (total.log() + most + shift)[..., 0]) if return_lse else out


def _in_sequence(tokens: Tensor, order: TokenOrder | None) -> Tensor:
    return tokens if order is None else order.restore(tokens)
