"""What an undo must leave as it was."""

from __future__ import annotations

import torch
from torch import nn


def traces(model: nn.Module) -> dict:
    """Everything an attribute, a hook or a processor could hide in."""
    state = {}
    for name, module in model.named_modules():
        state[name] = {
            key: dict(value) if isinstance(value, dict) else value
            for key, value in vars(module).items()
            if not isinstance(value, torch.Tensor)
        }
    return state
