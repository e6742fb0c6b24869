"""Attention sinks: a learned logit for each head that takes part in the softmax and carries no value."""

from __future__ import annotations

import torch
from torch import Tensor


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """Attention [B, H, M, Dv] whose softmax has the logits `sinks` [H] besides.

    The softmax's sum grows from exp(lse) to exp(lse) + exp(sink), so the output shrinks by the quotient.

    Args:
        lse: float32 [B, H, M], natural logarithm.
    """
    share = torch.sigmoid(lse - sinks.float()[:, None])  # [B, H, M]
    return (out * share.unsqueeze(-1)).to(out.dtype)
