"""The operation inside a graph of torch.compile: one node, traced around and never into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from accel.kernels.attention.tier import Precision
from accel.kernels.attention.tiers import attention_for
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder


def compiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    scale: float | None,
    tier: str | None,
    precision: Precision | None = None,
) -> tuple[Tensor, Tensor]:
    """Out [B, H, M, D] and LSE [B, H, M], on the tier that is chosen when the graph runs."""
    orders = [None if order is None else order.indices for order in (layout.q_order, layout.kv_order)]
    out, lse = _attend(
        q, k, v, layout.kv_indices, layout.kv_num_blocks, layout.block_size, layout.q_len, layout.kv_len,
        layout.causal, layout.kv_lengths, *orders, layout.tail, layout.window, scale, tier, precision,
    )  # fmt: skip
    return out.transpose(1, 2), lse


@torch.library.custom_op("sparse_accel::block_sparse_attention", mutates_args=())
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_indices: Tensor,
    kv_num_blocks: Tensor,
    block_size: Sequence[int],
    q_len: int,
    kv_len: int,
    causal: bool,
    kv_lengths: Tensor | None,
    q_order: Tensor | None,
    kv_order: Tensor | None,
    tail: bool,
    window: int | None,
    scale: float | None,
    tier: str | None,
    precision: str | None,
) -> tuple[Tensor, Tensor]:
    """Out [B, M, H, D], which is how the GPU's tiers write it, and the LSE."""
    rows, columns = block_size
    first, second = (None if order is None else TokenOrder(order) for order in (q_order, kv_order))
    layout = BlockLayout(
        kv_indices,
        kv_num_blocks,
        (rows, columns),
        q_len,
        kv_len,
        causal,
        kv_lengths,
        first,
        second,
        tail,
        window,
    )
    with torch.cuda.device_of(q):
        out, lse = attention_for(q, layout, tier, cast("Precision | None", precision))(
            q, k, v, layout, scale=scale, return_lse=True
        )
    return out.transpose(1, 2).contiguous(), lse


@_attend.register_fake
def _fake(q: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    batch, heads, q_len, dim = q.shape
    return q.new_empty(batch, q_len, heads, dim), q.new_empty(batch, heads, q_len, dtype=torch.float32)
