"""Dense queries: the last queries of a prompt see every key, whatever a method chose for them."""

from __future__ import annotations

from dataclasses import replace

import torch

from accel.kernels.layout.blocks import causal_blocks
from accel.kernels.layout.layout import BlockLayout


def with_dense_queries(layout: BlockLayout, queries: int) -> BlockLayout:
    """The layout with every block listed for the query blocks that hold the last `queries` queries.

    What is asked for usually stands at the end of a prompt, and a few rows cost next to nothing: TriangleMix
    (arXiv 2507.21526) and HiP (arXiv 2406.09827) keep them as well.

    Raises:
        ValueError: if queries are reordered: which blocks hold the last ones then differs by head.
    """
    if queries < 1:
        return layout
    if layout.q_order is not None:
        raise ValueError("the last queries of a layout with a query order are in no blocks of their own")
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
