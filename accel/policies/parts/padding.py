"""Padding is nobody's key: it must not sway which blocks are chosen either."""

from __future__ import annotations

import torch
from torch import Tensor


def without_padding(tokens: Tensor, lengths: Tensor) -> Tensor:
    """[B, H, N, D] with every token from `lengths` on replaced by the sample's last one before.

    So no method can see what padding holds. How many tokens are padding stays known by `lengths`, int32 [B];
    a sample of length 0 repeats its first token.
    """
    last = (
        (lengths.long() - 1)
        .clamp(min=0)[:, None, None, None]
        .expand(-1, *tokens.shape[1:2], 1, tokens.shape[3])
    )
    hidden = torch.arange(tokens.shape[2], device=tokens.device) >= lengths[:, None]
    return torch.where(hidden[:, None, :, None], tokens.gather(2, last), tokens)
