"""Fixed blocks: what no method chooses: the blocks of a sliding window, and the last queries of a prompt."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from accel.kernels.layout.blocks import blocks_of_tokens, causal_blocks, causal_blocks_in
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


def with_dense_queries(layout: BlockLayout, queries: int) -> BlockLayout:
    """The layout with every block listed for the query blocks that hold the last `queries` queries.

    What is asked for is usually at the end of a prompt, and a few rows cost next to nothing: TriangleMix
    (arXiv 2507.21526) and HiP (arXiv 2406.09827) also keep them.

    Of a layout with a query order, which has as many queries as keys, the blocks may differ by head.
    """
    if queries < 1:
        return layout
    if layout.q_order is not None:
        return _with_dense_among(layout, queries)
    first = max(layout.q_len - queries, 0) // layout.block_size[0]
    blocks = layout.num_kv_blocks
    may = torch.ones(layout.num_q_blocks, blocks, dtype=torch.bool, device=layout.device)
    if layout.causal and layout.kv_order is None:
        may = causal_blocks(layout.block_size, layout.q_len, layout.kv_len, layout.device)
    missing = blocks - layout.kv_indices.shape[3]
    indices = (
        torch.nn.functional.pad(layout.kv_indices, (0, missing)) if missing else layout.kv_indices.clone()
    )
    counts = layout.kv_num_blocks.clone()
    indices[:, :, first:] = torch.arange(blocks, dtype=torch.int32, device=layout.device)
    counts[:, :, first:] = may[first:].sum(dim=-1, dtype=torch.int32)
    return replace(layout, kv_indices=indices, kv_num_blocks=counts)


def _with_dense_among(layout: BlockLayout, queries: int) -> BlockLayout:
    orders, device = (layout.q_order, layout.kv_order), layout.device
    last = blocks_of_tokens(layout.q_order, layout.q_len, layout.block_size[0], device)[..., -queries:]
    dense = torch.zeros(*last.shape[:2], layout.num_q_blocks, dtype=torch.bool, device=device)
    keep = dense.scatter(2, last, True)[..., None]
    if layout.causal:
        keep = keep & causal_blocks_in(orders, layout.q_len, layout.block_size, device)
    return layout.keeping(layout.listed | keep)
