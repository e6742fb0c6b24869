"""Causality in chunks for a layout that was chosen without it: what no query sees is not listed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from accel.kernels.layout.blocks import blocks_of_tokens, last_of_chunk, per_head, positions_by_block
from accel.kernels.layout.compact_lists import compact_lists
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder

Orders = tuple[TokenOrder | None, TokenOrder | None]


def seen_blocks(
    orders: Orders, tokens: int, block_size: tuple[int, int], chunk: int, device: torch.device
) -> Tensor:
    """Bool [B | 1, H | 1, Mb, Nb]: the blocks in which some query sees some key, by `BlockLayout.chunk`.

    Args:
        orders: of the queries and of the keys; heads of either divide those of the other.
        tokens: of the sequence, queries and keys alike.
    """
    first_key = positions_by_block(orders[1], tokens, block_size[1], device, tokens).amin(dim=-1)
    last_query = positions_by_block(orders[0], tokens, block_size[0], device, 0).amax(dim=-1)
    heads = max(first_key.shape[1], last_query.shape[1])
    first_key, last_query = per_head(first_key, heads), per_head(last_query, heads)
    return first_key[:, :, None] <= last_of_chunk(last_query, chunk)[..., None]


def causal_in_chunks(layout: BlockLayout, chunk: int) -> BlockLayout:
    """The layout without the blocks that nobody sees under causality in chunks.

    Blocks that some of their queries see stay, and are masked inside. Every row of queries also lists the
    block of its first token's own key, which all of them see, so that none is left without. No host sync.
    """
    (rows, columns), device, tokens = layout.block_size, layout.device, layout.q_len
    may = seen_blocks((layout.q_order, layout.kv_order), tokens, layout.block_size, chunk, device)
    first_query = positions_by_block(layout.q_order, tokens, rows, device, tokens).amin(dim=-1)
    kv_block = blocks_of_tokens(layout.kv_order, tokens, columns, device)
    heads = max(layout.kv_indices.shape[1], first_query.shape[1], kv_block.shape[1])
    listed, may, first_query, kv_block = (
        per_head(part, heads) for part in (layout.listed, may, first_query, kv_block)
    )
    batch = max(first_query.shape[0], kv_block.shape[0])
    own = kv_block.expand(batch, -1, -1).gather(2, first_query.expand(batch, -1, -1))
    keep = (listed & may) | (own[..., None] == torch.arange(layout.num_kv_blocks, device=device))
    indices, counts = compact_lists(keep)
    return replace(layout, kv_indices=indices, kv_num_blocks=counts, causal=True, chunk=chunk)
