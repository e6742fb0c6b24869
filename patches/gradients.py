"""Gradients: whether autograd watches an attention call; no kernel of ours has a backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def records_gradients(*tensors: Tensor) -> bool:
    """Whether what is computed from any of these is recorded."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def may_run_twice(model: Any) -> bool:
    """Whether a forward that begins now is one of a model that keeps no activations.

    A reentrant checkpoint runs blocks without recording gradients, and a second time with: both must agree.
    """
    return torch.is_grad_enabled() and getattr(model, "gradient_checkpointing", False)
