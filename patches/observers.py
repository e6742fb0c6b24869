"""Observers: whether autograd or a function mode watches an attention call, which must then run dense.

No kernel of ours has a backward. Perturbed-attention guidance puts a `TorchFunctionMode` between a model and
PyTorch's attention: it would never see a kernel of ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack

HARMLESS = ("torch", "accel")

GRADIENTS = "gradients are recorded"


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


def interceptor() -> str | None:
    """The class of a function mode around the current call that is neither PyTorch's nor ours; or none."""
    for mode in _get_current_function_mode_stack():
        if type(mode).__module__.partition(".")[0] not in HARMLESS:
            return type(mode).__name__
    return None
