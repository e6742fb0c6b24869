"""Gradients: whether autograd watches an attention call; no kernel of ours has a backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def records_gradients(*tensors: Tensor) -> bool:
    """Whether what is computed from any of these is recorded."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_differentiated(model: Any) -> bool:
    """Whether derivatives may be taken of a forward that begins now, though its tensors do not show it.

    A reentrant checkpoint runs blocks without recording gradients, and a second time with: both must agree.
    Forward-mode derivatives ride on tensors that record nothing.
    """
    checkpoints = torch.is_grad_enabled() and getattr(model, "gradient_checkpointing", False)
    return checkpoints or forward_ad._current_level >= 0
