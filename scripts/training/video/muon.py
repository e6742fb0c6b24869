"""Muon: momentum whose update of every matrix is made orthogonal (arXiv 2502.16982)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Roughly U Vᵀ for every matrix U S Vᵀ of [..., M, N]: singular values end within about 0.3 of 1.

    Newton-Schulz iteration, in bfloat16 on a GPU, in float32 elsewhere.
    """
    a, b, c = QUINTIC
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (torch.linalg.matrix_norm(x.float(), keepdim=True).to(x.dtype) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal and scaled by 0.2 √max(M, N), which gives AdamW's usual step length.

    Parameters of more than two axes (convolution kernels) are seen as matrices [first axis, all others].
    Matrices of equal shape are worked on together.

    Raises:
        ValueError: if a parameter has fewer than two axes.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        for param in self._params():
            if param.ndim < 2:
                raise ValueError(f"Muon works on matrices, got a parameter of shape {tuple(param.shape)}")

    def _params(self) -> list[nn.Parameter]:
        return [param for group in self.param_groups for param in group["params"]]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            alike: defaultdict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    alike[tuple(param.flatten(1).shape)].append(param)
            for shape, params in alike.items():
                updates = torch.stack(
                    [self._nesterov(param, group["momentum"]).flatten(1) for param in params]
                )
                step_length = group["lr"] * 0.2 * max(shape) ** 0.5
                for param, update in zip(params, orthogonalised(updates), strict=True):
                    param.sub_(step_length * update.view_as(param))

    def _nesterov(self, param: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[param]
        if not state:
            state["momentum"] = torch.zeros_like(param)
        state["momentum"].lerp_(param.grad, 1 - momentum)
        return param.grad.lerp(state["momentum"], momentum)
