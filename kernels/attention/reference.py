"""The specification of block-sparse attention: masked dense attention in PyTorch, slow and exact."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from accel.kernels.attention.tier import Tier, runs_anywhere
from accel.kernels.layout.blocks import blocks_of_tokens, per_head
from accel.kernels.layout.layout import BlockLayout

TIER = Tier("accel.kernels.attention.reference", runs_anywhere)


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ · scale) v over the keys that `layout` lets each query see.

    Args:
        q: [B, H, M, D]; k, v: [B, Hkv, N, D], H a multiple of Hkv. The arithmetic is done in q's type.
        scale: 1 / sqrt(D) if None.

    Returns:
        out [B, H, M, D], and the LSE, the natural logarithm of each row's sum of exponentials, float32
        [B, H, M]. A query that sees nothing gets 0 and -inf.
    """
    batch, heads, _, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    k, v = per_head(k, heads), per_head(v, heads)
    seen = per_head(layout.to_mask(batch), heads)
    if layout.tail:
        mean_k, mean_v, log_count, in_tail = _tail(k, v, layout)
        k, v, seen = torch.cat([k, mean_k], 2), torch.cat([v, mean_v], 2), torch.cat([seen, in_tail], 3)
    scores = q @ k.transpose(-1, -2) * scale
    if layout.tail:
        scores[..., layout.kv_len :] += log_count
    scores = scores.masked_fill(~seen, -torch.inf)
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse.nan_to_num(neginf=0.0)[..., None]).exp()
    out = weights @ v
    return out, lse.float()


def _tail(k: Tensor, v: Tensor, layout: BlockLayout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean keys and values [B, H, Nb, D] of all blocks, the log of how many tokens each is the mean of
    [B, H, 1, Nb], and which of them each query sees, [B, H, M, Nb]."""
    batch, heads = k.shape[:2]
    q_block, kv_block = (
        per_head(blocks_of_tokens(order, length, rows, layout.device), heads).expand(batch, -1, -1)
        for order, length, rows in (
            (layout.q_order, layout.q_len, layout.block_size[0]),
            (layout.kv_order, layout.kv_len, layout.block_size[1]),
        )
    )
    member = one_hot(kv_block, layout.num_kv_blocks).bool()  # [B, H, N, Nb]
    position = torch.arange(layout.kv_len, device=layout.device)
    if layout.kv_lengths is not None:
        member &= (position < layout.kv_lengths[:, None, None])[..., None]
    count = member.sum(dim=2)  # [B, H, Nb]
    taken = ~per_head(layout.listed, heads) & (count > 0)[:, :, None]  # [B, H, Mb, Nb]
    if layout.causal:
        last_key = torch.where(member, position[:, None], -1).amax(dim=2)
        q_member = one_hot(q_block, layout.num_q_blocks).bool()  # [B, H, M, Mb]
        q_position = torch.arange(layout.q_len, device=layout.device)[:, None]
        first_query = torch.where(q_member, q_position, layout.q_len).amin(dim=2)
        taken = taken & (last_key[:, :, None] <= layout.last_seen(first_query)[..., None])
    if layout.visibility is not None:
        hidden = ~layout.visibility.mask(layout.device)
        q_member = one_hot(q_block, layout.num_q_blocks).bool()
        some_hidden = torch.einsum("bhmi,mn,bhnj->bhij", *(x.float() for x in (q_member, hidden, member)))
        taken = taken & (some_hidden == 0)
    in_tail = taken.gather(2, q_block[..., None].expand(-1, -1, -1, layout.num_kv_blocks))
    block = kv_block.where(member.any(dim=3), layout.num_kv_blocks)
    mean_k, mean_v = (_block_means(tokens, block, count) for tokens in (k, v))
    return mean_k, mean_v, count.clamp(min=1).log().to(k.dtype)[:, :, None], in_tail


def _block_means(tokens: Tensor, block: Tensor, count: Tensor) -> Tensor:
    """[B, H, N, D] -> [B, H, Nb, D]; a token that is not finite affects only its own block's mean."""
    blocks = count.shape[2]
    total = tokens.new_zeros(*tokens.shape[:2], blocks + 1, tokens.shape[3])
    total.scatter_add_(2, block[..., None].expand_as(tokens), tokens)
    return total[:, :, :blocks] / count.clamp(min=1)[..., None]
