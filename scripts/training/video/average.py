"""An exponential moving average of a model's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """Keeps `decay` of itself a step, and less in the first steps, so as not to remember the start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.params = dict(model.named_parameters())
        self.values: dict[str, Tensor] = {name: param.detach().clone() for name, param in self.params.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the model's parameters in after step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), list(self.params.values()), 1 - decay)

    @torch.no_grad()
    def write(self) -> None:
        """Overwrite the model's parameters with their average."""
        for name, param in self.params.items():
            param.copy_(self.values[name])
