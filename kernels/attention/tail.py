"""The tail: what replaces the key blocks that a layout does not list (arXiv 2602.01077, order 0)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.layout.blocks import per_head, positions_by_block
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.visibility import ALWAYS, block_bounds
from accel.kernels.planning.representatives import ragged_mean


class TailBlocks(NamedTuple):
    """What decides, in addition to its list, which means a row takes part with: first <= low, high <= last.

    Args:
        tokens: int64 [B | 1, Hkv | 1, Nb], how many tokens a block's mean represents.
        first: int64 [B | 1, Hkv | 1, Nb], the last position of those, or the highest tag from which a key is
            seen; None where every query sees every key.
        low: int64 [B | 1, H | 1, Mb], up to where every query of a block sees, or its lowest tag; or None.
        last: int64, as `first`, the lowest tag up to which a key is seen; None but for a visibility.
        high: int64, as `low`, the highest tag; or None.
    """

    tokens: Tensor
    first: Tensor | None = None
    low: Tensor | None = None
    last: Tensor | None = None
    high: Tensor | None = None


def tail_blocks(layout: BlockLayout) -> TailBlocks:
    """The counts and limits of the blocks of `layout`."""
    order = layout.kv_order
    heads = 1 if order is None or order.indices.ndim == 1 else order.indices.shape[1]
    present = _present(layout, heads)
    tokens = present.sum(dim=-1)
    if layout.visibility is not None:
        tags = layout.visibility.tags(layout.device)
        bounds = block_bounds(layout.visibility, layout.block_size, layout.device, layout.q_order)
        places = _kv_positions(layout).clamp(max=layout.kv_len - 1)
        first = tags.first[places, 0].long().where(present, -ALWAYS).amax(dim=-1)
        last = tags.last[places, 0].long().where(present, ALWAYS).amin(dim=-1)
        return TailBlocks(tokens, first, bounds.low[0][..., 0], last, bounds.high[1][..., 0])
    if not layout.causal:
        return TailBlocks(tokens)
    last_key = torch.where(present, _kv_positions(layout), -1).amax(dim=-1).expand(tokens.shape)
    positions = positions_by_block(
        layout.q_order, layout.q_len, layout.block_size[0], layout.device, layout.q_len
    )
    return TailBlocks(tokens, last_key, layout.last_seen(positions.amin(dim=-1)))


def tail_log_count(layout: BlockLayout) -> Tensor:
    """Float32 [B | 1, H | 1, Mb, Nb]: the logarithm of how many tokens a block's mean represents.

    -inf where the block is listed, is all padding, or has a key that a query of the row does not see.
    """
    tokens, first, low, last, high = tail_blocks(layout)
    heads = max(layout.kv_indices.shape[1], tokens.shape[1], 1 if low is None else low.shape[1])
    tokens = per_head(tokens, heads)[:, :, None]
    taken = ~per_head(layout.listed, heads) & (tokens > 0)
    if first is not None and low is not None:
        taken = taken & (per_head(first, heads)[:, :, None] <= per_head(low, heads)[..., None])
    if last is not None and high is not None:
        taken = taken & (per_head(high, heads)[..., None] <= per_head(last, heads)[:, :, None])
    return torch.where(taken, tokens.float().log(), -torch.inf)


def tail_means(k: Tensor, v: Tensor, layout: BlockLayout) -> tuple[Tensor, Tensor]:
    """Mean key and value of every key block, [B, Hkv, Nb, D] each, padding left out.

    Args:
        k, v: [B, Hkv, N, D], in the order that `layout` cuts its blocks from.
    """
    columns = layout.block_size[1]
    if layout.kv_lengths is None:
        wide = torch.promote_types(k.dtype, torch.float32)
        mean_k, mean_v = (ragged_mean(x, 2, columns, wide).to(x.dtype) for x in (k, v))
        return mean_k, mean_v
    present = _present(layout, k.shape[1])
    count = present.sum(dim=-1, keepdim=True).clamp(min=1)
    return _mean(k, present, count), _mean(v, present, count)


def _mean(tokens: Tensor, present: Tensor, count: Tensor) -> Tensor:
    columns = present.shape[-1]
    blocks = F.pad(tokens, (0, 0, 0, -tokens.shape[2] % columns)).unflatten(2, (-1, columns))
    wide = torch.promote_types(tokens.dtype, torch.float32)
    total = blocks.masked_fill(~present[..., None], 0).sum(dim=3, dtype=wide)
    return (total / count).to(tokens.dtype)


def _kv_positions(layout: BlockLayout) -> Tensor:
    return positions_by_block(
        layout.kv_order, layout.kv_len, layout.block_size[1], layout.device, layout.kv_len
    )


def _present(layout: BlockLayout, heads: int) -> Tensor:
    """Bool [B | 1, heads, Nb, columns]: the places of key blocks that hold a token and no padding."""
    positions = _kv_positions(layout)
    present = positions < layout.kv_len
    if layout.kv_lengths is not None:
        present = present & (positions < layout.kv_lengths[:, None, None, None])
    return per_head(present, heads)
