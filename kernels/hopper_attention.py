"""Block-sparse attention for Hopper in Gluon. COMPILED FOR sm_90, NOT YET RUN ON ANY GPU.

A prototype of its schedule ran on an H200; this kernel adds to it ragged lengths, grouped heads, causality,
padding, the LSE, empty lists and fp16. Tests compile it, read its machine code and run its source in an
emulator of Gluon. By itself it is chosen only on machines where it has passed `accel.kernels.proof`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from accel.kernels.block_order import to_block_order, to_sequence_order
from accel.kernels.hopper_kernel import ROWS, hopper_kernel
from accel.kernels.layout import BlockLayout
from accel.kernels.online_softmax import LOG2_E
from accel.kernels.tail import tail_log_count, tail_means
from accel.kernels.tiers import cannot_take
from accel.kernels.triton_config import strides
from accel.kernels.triton_tail import add_tail
from accel.kernels.work_order import work_order_if_it_matters

STAGES = {64: 4, 128: 2}  # tiles of keys and of values in flight, by head dim
GLUON_TYPES = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    *,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """What `reference.block_sparse_attention` computes, without waiting for the device.

    Raises:
        ValueError: if query blocks are not of 128, the head dim is not 64 or 128, the type is not a half one,
            or an order is joined with causality or padding.
    """
    _check(q, layout)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (_aligned(x) for x in to_block_order(q, k, v, layout))
    batch, heads, q_len, dim = q.shape
    out = q.new_empty(batch, q_len, heads, dim).transpose(1, 2)
    lse = q.new_empty(batch, heads, q_len, dtype=torch.float32)
    indices, counts = layout.kv_indices.contiguous(), layout.kv_num_blocks.contiguous()
    work = work_order_if_it_matters(layout, batch * heads)
    rows, columns = layout.block_size
    hopper_kernel[(layout.num_q_blocks, batch * heads)](
        _descriptor(q, ROWS.value), _descriptor(k, columns), _descriptor(v, columns),
        _descriptor(out, ROWS.value), lse, indices, counts, layout.kv_lengths, work,
        strides(indices), strides(counts), strides(work), heads, heads // k.shape[1], q_len, layout.kv_len,
        scale * LOG2_E.value, D=dim, CAUSAL=layout.causal, STAGES=STAGES[dim], num_warps=4,
    )  # fmt: skip
    if layout.tail:
        add_tail(q, *tail_means(k, v, layout), tail_log_count(layout), out, lse, rows, scale)
    out = to_sequence_order(out, layout)
    return (out, to_sequence_order(lse, layout)) if return_lse else out


def _check(q: Tensor, layout: BlockLayout) -> None:
    if q.dtype not in GLUON_TYPES or q.shape[-1] not in STAGES:
        raise ValueError(
            f"the hopper tier takes {sorted(map(str, GLUON_TYPES))} and head dims {sorted(STAGES)}, "
            f"got {q.dtype} and {q.shape[-1]}"
        )
    if reason := cannot_take("hopper", layout):
        raise ValueError(f"the hopper tier {reason}")


def _aligned(tokens: Tensor) -> Tensor:
    """`tokens`, copied if TMA cannot address them: rows dense, all strides multiples of 16 bytes."""
    strided = [s for s, n in zip(tokens.stride()[:3], tokens.shape[:3], strict=True) if n > 1]
    dense = tokens.stride(-1) == 1 and all(s > 0 and s * tokens.itemsize % 16 == 0 for s in strided)
    return tokens if dense and tokens.data_ptr() % 16 == 0 else tokens.contiguous()


def _descriptor(tokens: Tensor, rows: int) -> TensorDescriptor:
    """Addresses [B, H, N, D] in boxes of `rows` tokens of a head; tokens behind the last read as zeros."""
    box = [1, 1, rows, tokens.shape[3]]
    layout = gl.NVMMASharedLayout.get_default_for(box, GLUON_TYPES[tokens.dtype])
    # The stride of an axis of length 1 is never used, but has to be a legal one.
    dims = zip(tokens.stride(), tokens.shape, strict=True)
    legal = [tokens.shape[3] if n == 1 and axis < 3 else s for axis, (s, n) in enumerate(dims)]
    return TensorDescriptor(tokens, list(tokens.shape), legal, box, layout)
