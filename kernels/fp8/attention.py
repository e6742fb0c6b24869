"""Block-sparse attention in eight bits for Hopper in Gluon. COMPILED FOR sm_90, NOT YET RUN ON ANY GPU.

Fourteen times the error of bf16, for products at twice its rate. Used only where it is asked for by name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels.attention.tail_triton import add_tail
from accel.kernels.attention.tier import require
from accel.kernels.fp8.kernel import ROWS, hopper_fp8_kernel
from accel.kernels.fp8.operands import Operands, operands
from accel.kernels.fp8.tier import cannot_take, does_not_take
from accel.kernels.hopper.tiles import box_descriptor
from accel.kernels.launch import apart, launch
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.work_order import work_order_if_it_matters
from accel.kernels.online_softmax import LOG2_E

STAGES = 4  # tiles of keys and of values in flight


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """What `specification.block_sparse_attention` computes, without waiting for the device.

    Raises:
        ValueError: if the head dim is not 64 or 128, the type is not a half one, or `tier.cannot_take` has
            something against the layout.
    """
    require("fp8", does_not_take(q.dtype, q.shape[-1]), cannot_take(layout))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = layout.to_block_order(q, k, v)
    batch, heads, q_len, dim = q.shape
    rows, columns = layout.block_size
    eight = _operands(q, k, v, rows, scale)
    out = q.new_empty(batch, q_len, heads, dim).transpose(1, 2)
    lse = q.new_empty(batch, heads, q_len, dtype=torch.float32)
    indices, counts = layout.kv_indices.contiguous(), layout.kv_num_blocks.contiguous()
    work = work_order_if_it_matters(layout, batch * heads)
    launch(
        hopper_fp8_kernel, layout.num_q_blocks * batch * heads,
        box_descriptor(eight.q, ROWS.value, dim), box_descriptor(eight.k, columns, dim),
        box_descriptor(eight.v, dim, columns), box_descriptor(out, ROWS.value, dim), lse, eight.q_scales,
        eight.k_scales, eight.v_scales, indices, counts, layout.kv_lengths, work, *apart(indices),
        indices.shape[3], heads, heads // k.shape[1], layout.num_q_blocks, q_len, layout.kv_len,
        scale * LOG2_E.value, D=dim, CAUSAL=layout.causal, STAGES=STAGES, num_warps=4,
    )  # fmt: skip
    lse += eight.shift
    if layout.tail:
        add_tail(q, k, v, layout, out, lse, scale)
    out = layout.to_sequence_order(out)
    return out, layout.to_sequence_order(lse)


def _operands(q: Tensor, k: Tensor, v: Tensor, rows: int, scale: float) -> Operands:
    if not q.is_cuda:
        return operands(q, k, v, rows, scale)
    from accel.kernels.fp8 import quantise

    return quantise.operands(q, k, v, rows, scale)
