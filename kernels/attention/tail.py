"""The tail: what stands in for the key blocks that a layout does not list (arXiv 2602.01077, order 0)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.attention.mean_pool import mean_pool
from accel.kernels.layout.blocks import per_head, positions_by_block
from accel.kernels.layout.layout import BlockLayout


def tail_means(k: Tensor, v: Tensor, layout: BlockLayout) -> tuple[Tensor, Tensor]:
    """Mean key and value of every key block, [B, Hkv, Nb, D] each, padding left out.

    Args:
        k, v: [B, Hkv, N, D], in the order that `layout` cuts its blocks from.
    """
    columns = layout.block_size[1]
    if k.is_cuda:
        from accel.kernels.attention import tail_means_triton as triton_tail_means

        return triton_tail_means.tail_means(k, v, columns, layout.kv_lengths, layout.kv_order)
    if layout.kv_lengths is None:
        return mean_pool(k, columns).to(k.dtype), mean_pool(v, columns).to(v.dtype)
    present = _present(layout, k.shape[1])
    count = present.sum(dim=-1, keepdim=True).clamp(min=1)
    return _mean(k, present, count), _mean(v, present, count)


def _mean(tokens: Tensor, present: Tensor, count: Tensor) -> Tensor:
    columns = present.shape[-1]
    blocks = F.pad(tokens, (0, 0, 0, -tokens.shape[2] % columns)).unflatten(2, (-1, columns))
    wide = torch.promote_types(tokens.dtype, torch.float32)
    total = blocks.masked_fill(~present[..., None], 0).sum(dim=3, dtype=wide)
    return (total / count).to(tokens.dtype)


def tail_log_count(layout: BlockLayout) -> Tensor:
    """Float32 [B | 1, H | 1, Mb, Nb]: the logarithm of how many tokens a block's mean stands for.

    -inf where the block is listed, is all padding, or reaches into the future of a query of the row.
    """
    kv_heads = (
        1
        if layout.kv_order is None or layout.kv_order.indices.ndim == 1
        else layout.kv_order.indices.shape[1]
    )
    present = _present(layout, kv_heads)
    count = present.sum(dim=-1)
    q_positions = positions_by_block(
        layout.q_order, layout.q_len, layout.block_size[0], layout.device, layout.q_len
    )
    heads = max(layout.kv_indices.shape[1], q_positions.shape[1], kv_heads)
    taken = ~per_head(layout.listed, heads) & per_head(count > 0, heads)[:, :, None]
    if layout.causal:
        last_key = torch.where(present, _kv_positions(layout), -1).amax(dim=-1)
        last_seen = q_positions.amin(dim=-1) + layout.kv_len - layout.q_len
        taken = taken & (per_head(last_key, heads)[:, :, None] <= per_head(last_seen, heads)[..., None])
    return torch.where(taken, per_head(count, heads)[:, :, None].float().log(), -torch.inf)


def _kv_positions(layout: BlockLayout) -> Tensor:
    return positions_by_block(
        layout.kv_order, layout.kv_len, layout.block_size[1], layout.device, layout.kv_len
    )


def _present(layout: BlockLayout, heads: int) -> Tensor:
    """Bool [B | 1, Hkv, Nb, columns]: the places of key blocks that hold a token and no padding."""
    positions = _kv_positions(layout)
    present = positions < layout.kv_len
    if layout.kv_lengths is not None:
        present = present & (positions < layout.kv_lengths[:, None, None, None])
    return per_head(present, heads)
