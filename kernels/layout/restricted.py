"""Layouts under a visibility: what nobody sees is not listed, and what needs no mask can come first."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from accel.kernels.layout.blocks import blocks_of_tokens, per_head, positions_by_block
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import by_head
from accel.kernels.layout.visibility import NEVER, Tags, Visibility, block_bounds


def tags_by_block(layout: BlockLayout) -> Tags:
    """[B | 1, H | 1, M, A] and [B | 1, Hkv | 1, N, A], in the order that blocks are cut from; nobody sees
    padding. No host sync."""
    assert layout.visibility is not None
    tags = layout.visibility.tags(layout.device)
    q_order, kv_order = by_head(layout.q_order), by_head(layout.kv_order)
    low, high, first, last = (
        part[None, None] if order is None else part[order]
        for part, order in zip(tags, (q_order, q_order, kv_order, kv_order), strict=True)
    )
    if layout.kv_lengths is not None:
        positions = torch.arange(layout.kv_len, device=layout.device) if kv_order is None else kv_order
        padding = (positions >= layout.kv_lengths[:, None, None])[..., None]
        first, last = first.masked_fill(padding, NEVER[0]), last.masked_fill(padding, NEVER[1])
    return Tags(low, high, first, last)


def restricted(layout: BlockLayout, visibility: Visibility) -> BlockLayout:
    """A layout that was chosen without a visibility, under it: blocks that nobody sees are not listed.

    Blocks that some of their queries see stay, and are masked inside. Every row of queries also lists the
    block of the own key of its first query that sees any key, so that none is left without where queries see
    themselves. No host sync.
    """
    device, (rows, columns) = layout.device, layout.block_size
    tags = visibility.tags(device)
    positions = positions_by_block(layout.q_order, layout.q_len, rows, device, 0)
    sees_nothing = tags.low[positions, 0] < tags.first.min()
    first_query = positions.masked_fill(sees_nothing, layout.kv_len - 1).amin(dim=-1)
    kv_block = blocks_of_tokens(layout.kv_order, layout.kv_len, columns, device)
    heads = max(layout.kv_indices.shape[1], first_query.shape[1], kv_block.shape[1])
    listed, first_query, kv_block = (per_head(part, heads) for part in (layout.listed, first_query, kv_block))
    batch = max(first_query.shape[0], kv_block.shape[0])
    own = kv_block.expand(batch, -1, -1).gather(2, first_query.expand(batch, -1, -1))
    keep = listed | (own[..., None] == torch.arange(layout.num_kv_blocks, device=device))
    return layout.keeping(keep, visibility=visibility)


def whole_blocks_first(layout: BlockLayout, heads: int) -> tuple[BlockLayout, Tensor]:
    """The same lists, no longer ascending: the blocks that all their queries see, then those that some see.

    Args:
        heads: H.

    Returns:
        The layout without the blocks that nobody sees, and how many come first in each list, int32
        [B | 1, H | 1, Mb]. No host sync.
    """
    assert layout.visibility is not None
    orders, lengths = (layout.q_order, layout.kv_order), layout.kv_lengths
    bounds = block_bounds(layout.visibility, layout.block_size, layout.device, *orders, lengths)
    some, every = bounds.seen_by_some, bounds.seen_by_all
    heads = heads if max(layout.kv_indices.shape[1], some.shape[1]) > 1 else 1
    batch = max(layout.kv_indices.shape[0], some.shape[0])
    lists, counts, some, every = (
        per_head(part, heads).expand(batch, *[-1] * (part.ndim - 1))
        for part in (layout.kv_indices, layout.kv_num_blocks, some, every)
    )
    slots = torch.arange(lists.shape[3], device=layout.device)
    valid = slots < counts[..., None]
    places = lists.masked_fill(~valid, 0).long()
    some, every = some.gather(3, places) & valid, every.gather(3, places) & valid
    order = (2 - some.int() - every.int()).argsort(dim=-1, stable=True)
    found = replace(
        layout, kv_indices=lists.gather(3, order), kv_num_blocks=some.sum(dim=-1, dtype=torch.int32)
    )
    return found, every.sum(dim=-1, dtype=torch.int32)
