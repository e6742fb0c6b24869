"""Autocast around a slot: attention in the type autocast gives it, and the choice of blocks untouched by it.

PyTorch's own attention is one operator that autocast casts the arguments of. Ours is many, and autocast would
round each of those that choose blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROUNDED = (torch.float32, torch.float16, torch.bfloat16)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type that attention runs in under autocast on a device; None where autocast is off."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What autocast makes of an argument of attention."""
    return tensor.to(dtype) if tensor.dtype in ROUNDED else tensor


def as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast makes of the arguments of attention, for code that is compiled: it runs outside autocast,
    with the casts that were traced."""
    dtype = autocast_dtype(tensors[0].device)
    return tensors if dtype is None else tuple(cast(tensor, dtype) for tensor in tensors)


def under_autocast(
    dense: Callable[[], Tensor], device: torch.device, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """The model's own attention as it was called, for code that runs outside autocast."""

    def run() -> Tensor:
        with torch.autocast(device.type, dtype):
            return dense()

    return run
