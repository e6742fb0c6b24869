"""The dense attention that language models run where they are not sparse: transformers' own functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

DenseForward = Callable[..., tuple[Tensor, Tensor | None]]


def sdpa(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """PyTorch's own attention, for every model that was not loaded with "eager"."""
    return sdpa_attention_forward(module, q, k, v, mask, **rest)


def eager(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """The model's own eager attention: softcap, sinks, and the probabilities returned."""
    forward: DenseForward = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    causal = rest.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return forward(module, q, k, v, additive(mask, q, k, causal), **rest)


def has_eager(module: nn.Module) -> bool:
    """Whether the model's code has an eager attention of its own."""
    return "eager_attention_forward" in vars(sys.modules[type(module).__module__])


def additive(mask: Tensor | None, q: Tensor, k: Tensor, causal: bool) -> Tensor | None:
    """The mask that eager attention adds to its logits; none where every query sees every key.

    A mask that is left out because attention is causal is drawn: eager attention knows nothing of causality.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    if mask is None and causal and q_len > 1:
        mask = torch.ones(1, 1, q_len, kv_len, dtype=torch.bool, device=q.device).tril()
    if mask is None or mask.dtype != torch.bool:
        return mask
    zero = torch.zeros((), dtype=q.dtype, device=q.device)
    return torch.where(mask, zero, torch.finfo(q.dtype).min)
