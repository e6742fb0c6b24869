"""Muon, momentum whose update of every matrix is made orthogonal (arXiv 2502.16982), for convolutions too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def muon(params: list[nn.Parameter], lr: float) -> torch.optim.Muon:
    """torch's Muon, with the step length of AdamW.

    It takes matrices only: a convolution kernel is given to it as the matrix [first axis, all others], which
    shares the kernel's memory and gets its gradient before each step.

    Raises:
        ValueError: if a parameter has a single axis.
    """
    matrices = [nn.Parameter(param.detach().flatten(min(1, param.ndim - 1))) for param in params]
    optimizer = torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def hand_over_gradients(*_: Any) -> None:
        for matrix, param in zip(matrices, params, strict=True):
            matrix.grad = None if param.grad is None else param.grad.view_as(matrix)

    optimizer.register_step_pre_hook(hand_over_gradients)
    return optimizer


def muon_and_adamw(
    model: nn.Module, is_matrix: Callable[[str, Tensor], bool], lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the parameters that `is_matrix` picks by name and value, AdamW for the rest."""
    chosen: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, param in model.named_parameters():
        chosen[is_matrix(name, param)].append(param)
    rest = torch.optim.AdamW(chosen[False], lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon(chosen[True], lr), rest]
