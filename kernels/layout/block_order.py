"""Tokens into the order a layout cuts its blocks from, and back."""

from __future__ import annotations

from torch import Tensor

from accel.kernels.layout.layout import BlockLayout


def to_block_order(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B, H | Hkv, N, D] permuted as `layout` says; k and v get H heads if `kv_order` has H."""
    if layout.q_order is not None:
        q = layout.q_order.permute(q)
    if layout.kv_order is not None:
        k, v = layout.kv_order.permute(k), layout.kv_order.permute(v)
    return q, k, v


def to_sequence_order(tokens: Tensor, layout: BlockLayout) -> Tensor:
    """[B, H, M, D] or [B, H, M] in the order of blocks -> the same in the order of the sequence."""
    return tokens if layout.q_order is None else layout.q_order.restore(tokens)
