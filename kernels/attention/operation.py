"""block_sparse_attention: the public operation, on whichever tier the machine has."""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels.attention.tier import Precision
from accel.kernels.attention.tiers import attention_for
from accel.kernels.layout.layout import BlockLayout


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    *,
    scale: float | None = None,
    tier: str | None = None,
    precision: Precision | None = None,
) -> Tensor:
    """softmax(q kᵀ · scale) v over the keys that `layout` lets each query see. Forward only.

    Args:
        q: [B, H, M, D], any strides; k, v: [B, Hkv, N, D], H a multiple of Hkv.
        layout: which key blocks each block of queries attends to.
        scale: positive; 1 / sqrt(D) if None.
        tier: a key of `TIERS`; None takes the fastest one that is known to run right on this machine
            (`choose_tier`). A tier that is asked for and cannot run is an error, never replaced.
        precision: what queries and keys may be rounded to, where a tier that does so has passed its check.

    Returns:
        out [B, H, M, D] in q's type. A query that sees nothing gets 0.

    Raises:
        ValueError: if shapes, types or devices contradict each other, gradients are recorded, or no tier or
            not the requested one can run the call.
    """
    return attention_with_lse(q, k, v, layout, scale=scale, tier=tier, precision=precision)[0]


def attention_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    *,
    scale: float | None = None,
    tier: str | None = None,
    precision: Precision | None = None,
) -> tuple[Tensor, Tensor]:
    """`block_sparse_attention`, and the logarithm of each row's sum of exponentials.

    Returns:
        out [B, H, M, D] in q's type, and the LSE float32 [B, H, M], natural logarithm. A query that sees
        nothing gets 0 and -inf.
    """
    _check(q, k, v, layout, scale)
    attend = attention_for(q, layout, tier, precision)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(q):
        return attend(q, k, v, layout, scale)


def _check(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None) -> None:
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise ValueError(
            "expected q [B, H, M, D] and k, v [B, Hkv, N, D], "
            f"got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k must agree in B and D, got {tuple(q.shape)} and {tuple(k.shape)}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"query heads must be a multiple of key heads, got {q.shape[1]} and {k.shape[1]}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one type, got {q.dtype}, {k.dtype} and {v.dtype}")
    if scale is not None and not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    if not q.device == k.device == v.device == layout.device:
        raise ValueError(
            "q, k, v and the layout must be on one device, "
            f"got {q.device}, {k.device}, {v.device} and {layout.device}"
        )
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise ValueError("block_sparse_attention has no backward: call it under torch.no_grad()")
    _check_layout(q, k, layout)


def _check_layout(q: Tensor, k: Tensor, layout: BlockLayout) -> None:
    batch, heads, q_len, _ = q.shape
    if (q_len, k.shape[2]) != (layout.q_len, layout.kv_len):
        raise ValueError(
            f"the layout is for {layout.q_len} queries and {layout.kv_len} keys, got {q_len} and {k.shape[2]}"
        )
    if layout.kv_indices.shape[0] not in (1, batch) or layout.kv_indices.shape[1] not in (1, heads):
        raise ValueError(
            f"lists for {tuple(layout.kv_indices.shape[:2])} samples and heads do not fit q {tuple(q.shape)}"
        )
    if layout.kv_lengths is not None and layout.kv_lengths.shape != (batch,):
        raise ValueError(
            f"kv_lengths must have one entry per sample, expected {batch}, got {len(layout.kv_lengths)}"
        )
    for name, order, allowed in (
        ("q_order", layout.q_order, {1, heads}),
        ("kv_order", layout.kv_order, {1, heads, k.shape[1]}),
    ):
        if order is None or order.indices.ndim == 1:
            continue
        if order.indices.shape[0] not in (1, batch) or order.indices.shape[1] not in allowed:
            raise ValueError(
                f"{name} is of {tuple(order.indices.shape[:2])} samples and heads, expected {batch} or 1 "
                f"and one of {sorted(allowed)}"
            )
