"""A pytest plugin: images whose positions diffusers' tests draw at random get those of a grid.

Positions that are no grid make every call dense. The stock models get the same.
"""

from __future__ import annotations

import functools
from math import isqrt
from typing import Any

import pytest
import torch
from torch import Tensor


def on_grid(positions: Tensor) -> Tensor:
    """Positions `[tokens, axes]` of a grid as square as can be, rows and columns on the last two axes.

    Positions that are whole numbers already are returned as they are.
    """
    if torch.equal(positions, positions.round()):
        return positions
    tokens = positions.shape[-2]
    height = next(side for side in range(isqrt(tokens), 0, -1) if tokens % side == 0)
    index = torch.arange(tokens, device=positions.device)
    width = tokens // height
    grid = torch.zeros_like(positions)
    grid[..., -2], grid[..., -1] = index // width, index % width
    return grid


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for cls in {getattr(item, "cls", None) for item in items}:
        original = getattr(cls, "get_dummy_inputs", None)
        if original is not None:
            cls.get_dummy_inputs = inputs_on_grid(original)


def inputs_on_grid(original: Any) -> Any:
    """A test's `get_dummy_inputs`, with the positions in `img_ids` on a grid."""

    @functools.wraps(original)
    def get_dummy_inputs(*args: Any, **kwargs: Any) -> Any:
        inputs = original(*args, **kwargs)
        if isinstance(inputs, dict) and isinstance(inputs.get("img_ids"), Tensor):
            inputs["img_ids"] = on_grid(inputs["img_ids"])
        return inputs

    return get_dummy_inputs
