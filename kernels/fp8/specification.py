"""Block-sparse attention in eight bits: what the FP8 tier computes, in PyTorch, to know its error.

Queries, keys, values and weights are rounded to e4m3. Queries and keys are rotated alike first, which leaves
their products unchanged, and spreads what one channel holds over all, so that its rounding does not decide
a logit alone (arXiv 2407.08608). Keys lose their mean, which shifts each row's logits alike and leaves the
softmax unchanged (arXiv 2410.02367). Queries have a scale for each block of a head, keys one for each head,
values one for each channel of a head (arXiv 2411.10958): none of them changes within a row of the products,
so that the products are sums of e4m3 numbers alone. Finer scales do not make the error smaller, because e4m3
numbers bring their own exponents. Sums are those of the unrounded weights, in float32. Not a tier: as slow
as the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.attention.tail import tail_log_count, tail_means
from accel.kernels.layout.blocks import per_head
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
LEAST = 1e-12  # tokens whose largest number is below this are scaled as if it were this
WEIGHT_LOG2 = 8.0  # weights are at most 1; times 256 they use the range of e4m3
LOG2_E, LN_2 = math.log2(math.e), math.log(2)


@dataclass(frozen=True)
class EightBits:
    """Queries, keys and values in e4m3, with the float32 scales that take them back.

    What is not finite is NaN and has no part in scales and means.

    Args:
        q: [B, H, M, D], rotated; q_scales [B, H, Mb], one for each block of queries.
        k: [B, Hkv, N, D], rotated, without `mean`; k_scales [B, Hkv].
        v: [B, Hkv, N, D]; v_scales [B, Hkv, D].
        mean: float32 [B, Hkv, 1, D], what was taken from each rotated key.
    """

    q: Tensor
    q_scales: Tensor
    k: Tensor
    k_scales: Tensor
    v: Tensor
    v_scales: Tensor
    mean: Tensor


def quantise(q: Tensor, k: Tensor, v: Tensor, rows: int, smooth: bool = True) -> EightBits:
    """q [B, H, M, D] in blocks of `rows`, k and v [B, Hkv, N, D] in eight bits; see `EightBits`."""
    q, k, v = rotate(q), rotate(k), v.float()
    mean = finite(k).mean(dim=2, keepdim=True) * smooth
    k = k - mean
    blocks = F.pad(q, (0, 0, 0, -q.shape[2] % rows)).unflatten(2, (-1, rows))
    q_most, k_most, v_most = largest(blocks, (3, 4)), largest(k, (2, 3)), largest(v, (2,))
    return EightBits(
        to_e4m3(blocks, q_most[..., None, None]).flatten(2, 3)[:, :, : q.shape[2]],
        q_most / LARGEST,
        to_e4m3(k, k_most[..., None, None]),
        k_most / LARGEST,
        to_e4m3(v, v_most[:, :, None]),
        v_most / LARGEST,
        mean,
    )


def rotate(tokens: Tensor) -> Tensor:
    """Float32 [..., D] times the Hadamard matrix of D, orthonormal, so that products stay; D a power of two.

    Raises:
        ValueError: if it is not.
    """
    dim = tokens.shape[-1]
    if dim & (dim - 1):
        raise ValueError(f"attention in eight bits needs a head dim that is a power of two, got {dim}")
    channels = torch.arange(dim, device=tokens.device)
    both = channels[:, None] & channels
    odd = sum((both >> bit) & 1 for bit in range(dim.bit_length())) % 2
    return tokens.float() @ (1.0 - 2.0 * odd) * dim**-0.5


def finite(tokens: Tensor) -> Tensor:
    """`tokens`, zero where they are not finite."""
    return tokens.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def largest(tokens: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The largest finite magnitude along `axes`, at least `LEAST`."""
    return finite(tokens).abs().amax(dim=axes).clamp(min=LEAST)


def to_e4m3(tokens: Tensor, most: Tensor) -> Tensor:
    """`tokens` scaled so that `most` becomes the largest number of e4m3; NaN where they are not finite."""
    factor = torch.full_like(most, LARGEST) / most  # a number over a tensor would be rounded twice
    scaled = (tokens * factor).clamp(-LARGEST, LARGEST)
    return scaled.where(tokens.isfinite(), torch.nan).to(E4M3)


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    scale: float | None = None,
    smooth: bool = True,
) -> tuple[Tensor, Tensor]:
    """What `reference.block_sparse_attention` computes, with the rounding of the FP8 kernel.

    Args:
        smooth: take the mean key from the keys first; False shows what that is worth.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    heads, rows = q.shape[1], layout.block_size[0]
    in_blocks = layout.to_block_order(q, k, v)
    eight = quantise(*in_blocks, rows, smooth)
    q_scales = eight.q_scales.repeat_interleave(rows, dim=2)[:, :, : q.shape[2], None]
    q8 = _in_sequence(eight.q.float() * q_scales, layout.q_order)
    k8 = _in_sequence(eight.k.float() * eight.k_scales[..., None, None], layout.kv_order)
    v8 = _in_sequence(eight.v.float(), layout.kv_order)
    scores = q8 @ per_head(k8, heads).transpose(-1, -2) * (scale * LOG2_E)
    scores = scores.masked_fill(~per_head(layout.to_mask(q.shape[0]), heads), -torch.inf)
    # Whole powers of two: rounding is the same whichever keys the kernel has seen when it rounds a weight.
    most = scores.amax(dim=-1, keepdim=True).ceil().nan_to_num(neginf=0.0)
    weights = (scores - most + WEIGHT_LOG2).exp2()
    total = weights.sum(dim=-1, keepdim=True)
    out = weights.to(E4M3).float() @ per_head(v8, heads) / total.where(total > 0, 1.0)
    out = out * per_head(eight.v_scales, heads)[:, :, None]
    shift = rotate(q) @ per_head(eight.mean, heads).transpose(-1, -2) * scale
    lse = ((total.log2() + most - WEIGHT_LOG2) * LN_2 + shift)[..., 0]
    if layout.tail:
        out, lse = _with_tail(out, lse, *in_blocks, layout, scale)
    return out.to(q.dtype), lse


def _with_tail(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float
) -> tuple[Tensor, Tensor]:
    """Output and LSE with the means of unlisted blocks, which are not rounded; q, k, v in their blocks."""
    heads, q_len = q.shape[1:3]
    keys, values = (per_head(mean, heads).float() for mean in tail_means(k, v, layout))
    counts = per_head(tail_log_count(layout), heads).repeat_interleave(layout.block_size[0], dim=2)
    logits = q.float() @ keys.transpose(-1, -2) * scale + counts[:, :, :q_len]
    logits = _in_sequence(logits, layout.q_order)
    both = torch.logaddexp(lse, logits.logsumexp(dim=-1))
    base = both.nan_to_num(neginf=0.0)[..., None]
    return (lse[..., None] - base).exp() * out + (logits - base).exp() @ values, both


def _in_sequence(tokens: Tensor, order: TokenOrder | None) -> Tensor:
    return tokens if order is None else order.restore(tokens)
