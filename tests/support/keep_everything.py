"""Policies that list every block, so that the sparse path runs and nothing is dropped."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from accel import accelerate_model
from accel.accelerate import patches_of
from accel.kernels.layout.layout import BlockLayout
from accel.patches.grid import TokenGrid
from accel.policies.policy import Policy
from accel.recipe.recipe import Recipe

DENSE = Recipe.model_validate(
    {"schedule": {"min_tokens": 0}, "rules": [{"match": "*", "policy": {"method": "dense"}}]}
)


class KeepEverything(Policy):
    """For grids; keeps the grids it has seen."""

    method = "everything"
    static = True

    def __init__(self) -> None:
        self.grids: list[TokenGrid] = []

    def layout(self, q: Tensor, k: Tensor, grid: Any, context: Any) -> BlockLayout:
        self.grids.append(grid)
        return BlockLayout.full(q.shape[2], k.shape[2], (32, 16), q.device)


class KeepEveryCausalBlock(Policy):
    """For sequences: every block of the past."""

    method = "everything"

    def layout(self, q: Tensor, k: Tensor, grid: Any, context: Any) -> BlockLayout:
        return BlockLayout.full(q.shape[2], k.shape[2], (32, 16), q.device, causal=True)


def keep_everything(model: Any, **changes: Any) -> Any:
    """Accelerate a language model so that its sparse calls drop nothing."""
    accelerate_model(model, DENSE, **changes)
    for one in patches_of(model)[0].installed:
        one.attention.policy = KeepEveryCausalBlock()
    return model
