"""Budgets: how many blocks a row, a head or a layer may keep."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Budget = Literal["row", "head", "layer"]

LEAST_VARIANCE = 1e-6  # of a row's logarithms, so that equal ones do not stand out by rounding
FIRST_POOLED_AXIS: dict[Budget, int] = {"row": 3, "head": 2, "layer": 1}


def bounds(
    mass: Tensor, may: Tensor | None, budget: Budget, density: float, min_density: float, least: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Int32 [..., 1] each: the fewest and the most blocks of a budget, what must be kept aside.

    Counted in float64: float32 has no room for each number of blocks above 2^24.
    """
    available = available_blocks(mass, may, budget).double()
    rows = mass.shape[FIRST_POOLED_AXIS[budget] : 3].numel()
    highest = (density * available).clamp(min=least * rows).round().minimum(available)
    return (min_density * available).round().int(), highest.int()


def available_blocks(mass: Tensor, may: Tensor | None, budget: Budget) -> Tensor:
    """Int64 [pools, 1], with the leading axes of `mass` that `budget` leaves: blocks that may be kept."""
    pooled = FIRST_POOLED_AXIS[budget]
    if may is None:
        size = mass.shape[pooled:].numel()
        return torch.full((*mass.shape[:pooled], 1), size, device=mass.device)
    rows = may.expand(*may.shape[:3], mass.shape[3]).sum(dim=-1).expand(mass.shape[:3])
    return rows[..., None] if budget == "row" else rows.flatten(pooled).sum(dim=-1, keepdim=True)
