"""Block-sparse attention for Hopper in Gluon. COMPILED FOR sm_90, NOT YET RUN ON ANY GPU.

A prototype of its schedule ran on an H200; this kernel adds to it ragged lengths, grouped heads, causality,
padding, windows, orders, the LSE, empty lists, fp16 and more head dims. Tests compile it, read its machine
code and run its source in an emulator of Gluon. By itself it is chosen only on machines where it has passed
`accel.kernels.check.forms`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from accel.kernels.attention.tail_triton import add_tail
from accel.kernels.attention.tier import require
from accel.kernels.hopper.kernel import hopper_kernel
from accel.kernels.hopper.tier import cannot_take, does_not_take
from accel.kernels.hopper.tiles import ROWS, box_descriptor
from accel.kernels.launch import aligned, apart, launch, strides
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder, by_head
from accel.kernels.layout.work_order import work_order_if_it_matters
from accel.kernels.online_softmax import LOG2_E

# By columns of a box, the head dim rounded up: keys in a tile, and tiles of keys and of values in flight.
TILES = {64: (128, 4), 128: (128, 2), 256: (64, 2)}


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """What `reference.block_sparse_attention` computes, without waiting for the device.

    Raises:
        ValueError: if query blocks are not of 128, the head dim is not a multiple of 8 from 16 to 256, or the
            type is not a half one.
    """
    require("hopper", does_not_take(q.dtype, q.shape[-1]), cannot_take(layout))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if layout.kv_order is not None:
        k, v = layout.kv_order.permute(k), layout.kv_order.permute(v)
    q, k, v = (aligned(x) for x in (q, k, v))
    batch, heads, q_len, dim = q.shape
    out = q.new_empty(batch, q_len, heads, dim).transpose(1, 2)
    lse = q.new_empty(batch, heads, q_len, dtype=torch.float32)
    _launch(q, k, v, out, lse, layout, scale)
    if layout.tail:
        add_tail(q, k, v, layout, out, lse, scale, _positions(layout.q_order))
    return out, lse


def _launch(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, layout: BlockLayout, scale: float
) -> None:
    batch, heads, q_len, dim = q.shape
    width = max(triton.next_power_of_2(dim), 64)
    tile, stages = TILES[width]
    columns = layout.block_size[1]
    box = min(columns, tile)
    indices, counts = layout.kv_indices.contiguous(), layout.kv_num_blocks.contiguous()
    masked = layout.causal or layout.kv_lengths is not None
    q_positions = _positions(layout.q_order)
    kv_positions = _positions(layout.kv_order if masked else None)
    if kv_positions is not None:
        kv_positions = F.pad(kv_positions, (0, box), value=layout.kv_len)
    work = work_order_if_it_matters(layout, batch * heads)
    # Rows in the order of the sequence move by TMA, others by pointers.
    q_from, out_to = (
        x if layout.q_order is not None else box_descriptor(x, ROWS.value, width) for x in (q, out)
    )
    steps = [strides(x) if layout.q_order is not None else (0, 0, 0) for x in (q, out)]
    launch(
        hopper_kernel, layout.num_q_blocks * batch * heads,
        q_from, box_descriptor(k, box, width), box_descriptor(v, box, width), out_to, lse, indices, counts,
        layout.kv_lengths, work, q_positions, kv_positions,
        *steps, *apart(indices), indices.shape[3], *apart(q_positions), *apart(kv_positions),
        heads, heads // k.shape[1], layout.num_q_blocks, q_len, layout.kv_len, scale * LOG2_E.value,
        layout.window, D=dim, PARTS=columns // box, TILE=tile, STAGES=stages, CAUSAL=layout.causal,
        num_warps=4,
    )  # fmt: skip


def _positions(order: TokenOrder | None) -> Tensor | None:
    """Where tokens are in the sequence, int32 [B | 1, H | 1, N]; None if they are in its order."""
    positions = by_head(order)
    return None if positions is None else positions.int()
