"""Block-sparse attention by NVIDIA's cuDNN frontend. NOT YET RUN ON ANY GPU.

Lists are passed unchanged: cuDNN's are block numbers and counts too. What a block's keys are beyond the
end, or padding, is given by the number of its real keys; blocks without any are left out of the lists. Orders
are gathered into, and tails are added, as in the other tiers. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.attention.tier import on_nvidia, require
from accel.kernels.cudnn.tier import cannot_take
from accel.kernels.layout.blocks import per_head
from accel.kernels.layout.layout import BlockLayout


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """What `reference.block_sparse_attention` computes, without waiting for the device.

    Raises:
        ValueError: if the layout is one that `tier.cannot_take` refuses.
    """
    require("cudnn", cannot_take(layout))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q_len, block = q.shape[2], layout.block_size[1]
    q, k, v = layout.to_block_order(q, k, v)
    indices, counts = _lists(layout, *q.shape[:2])
    major = (on_nvidia(q.device) or (0, 0))[0]
    queries = q
    if major == 9 and block == 64:
        # There the package wants whole blocks of queries; it computes the rest for nothing.
        queries = F.pad(q, (0, 0, 0, -q_len % 64))
    keys, values = k, v
    if major in (10, 11) and block == 64:
        # There it takes blocks of 64 only if each query head has its own keys.
        keys, values = (per_head(x, q.shape[1]) for x in (k, v))
    found = forward()(
        *(_addressable(x) for x in (queries, keys, values)), indices, block_sizes=_keys_in_blocks(layout),
        q2k_block_nums=counts, sparse_block_size=block, allow_empty_block_nums=True, softmax_scale=scale,
        pack_gqa=False, layout="bhsd",
    )  # fmt: skip
    out = found["o_tensor"][:, :, :q_len]
    lse = found["lse_tensor"][:, :, :q_len].float()
    if layout.tail:
        from accel.kernels.attention.tail_triton import add_tail

        lse = lse.contiguous()
        add_tail(q, k, v, layout, out, lse, scale)
    out = layout.to_sequence_order(out)
    return out, layout.to_sequence_order(lse)


def forward() -> Callable[..., Any]:
    """The package's function, imported at the first call: that takes seconds."""
    found: Callable[..., Any] = import_module("cudnn.block_sparse_attention").block_sparse_attention_forward
    return found


def _lists(layout: BlockLayout, batch: int, heads: int) -> tuple[Tensor, Tensor]:
    """Int32 [B, H, blocks, S] and [B, H, blocks] for square blocks: ascending, zeros behind the last."""
    rows, columns = layout.block_size
    indices, counts = layout.kv_indices, layout.kv_num_blocks
    slots = torch.arange(indices.shape[3], device=indices.device, dtype=torch.int32)
    listed = slots < counts[..., None]
    if layout.kv_lengths is not None:
        blocks = (layout.kv_lengths + columns - 1) // columns
        listed = listed & (indices < blocks[:, None, None, None])
        indices = indices.expand(listed.shape)
    indices = torch.where(listed, indices, 0)
    counts = listed.sum(dim=-1, dtype=torch.int32)
    if rows != columns:
        square = -(-layout.q_len // columns)
        indices, counts = (
            x.repeat_interleave(rows // columns, dim=2)[:, :, :square] for x in (indices, counts)
        )
    return indices.expand(batch, heads, -1, -1).contiguous(), counts.expand(batch, heads, -1).contiguous()


def _keys_in_blocks(layout: BlockLayout) -> Tensor | None:
    """Int32 [Nb], or [B, Nb] under padding: how many real keys blocks have; None where all are whole."""
    columns = layout.block_size[1]
    if layout.kv_lengths is None and layout.kv_len % columns == 0:
        return None
    first = torch.arange(0, layout.kv_len, columns, device=layout.device, dtype=torch.int32)
    if layout.kv_lengths is None:
        return (layout.kv_len - first).clamp(max=columns)
    return (layout.kv_lengths.clamp(max=layout.kv_len)[:, None] - first).clamp(0, columns)


def _addressable(tokens: Tensor) -> Tensor:
    """`tokens` as the package's copies can address them."""
    from accel.kernels.launch import aligned

    return aligned(tokens)
