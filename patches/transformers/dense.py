"""Eager attention with weights, for models whose own dense attention returns none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from accel.patches.transformers.interface import interface_of


def eager(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """The model's own eager attention with a mask that was made for another."""
    interface = interface_of(module)
    assert interface is not None and interface.eager is not None
    causal = rest.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return interface.eager(module, q, k, v, additive(mask, q, k, causal), **rest)


def additive(mask: Tensor | None, q: Tensor, k: Tensor, causal: bool) -> Tensor | None:
    """The mask that eager attention adds to its logits; None where every query sees every key.

    A mask that is left out because attention is causal is drawn: eager attention knows nothing of causality.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    if mask is None and causal and q_len > 1:
        mask = torch.ones(1, 1, q_len, kv_len, dtype=torch.bool, device=q.device).tril()
    if mask is None or mask.dtype != torch.bool:
        return mask
    zero = torch.zeros((), dtype=q.dtype, device=q.device)
    return torch.where(mask, zero, torch.finfo(q.dtype).min)
