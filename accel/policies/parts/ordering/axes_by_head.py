"""AxesByHead: for each head the order of axes that gathers what it looks at in few blocks, stored."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.order import TokenOrder
from accel.noun import noun
from accel.patches.grid import TokenGrid
from accel.policies.parts.always import Always
from accel.policies.parts.ordering.orders import Axes, AxesName, token_order


@noun
class AxesByHead:
    """One of the six orders of the axes for every head of every layer (arXiv 2506.16054).

    They hardly change over steps and prompts; `accel.tuning.masks.learn_axes` finds a model's.

    Args:
        heads: a row for each layer, in call order, an order for each head.
    """

    heads: Annotated[tuple[tuple[AxesName, ...], ...], Field(min_length=1)]
    kind: Literal["axes_by_head"] = "axes_by_head"


@from_sizes(64)
def order_by_head(axes: tuple[AxesName, ...], grid: TokenGrid, device: torch.device) -> TokenOrder:
    """One order for each head, text included; the order of the sequence is one of the six."""
    orders = [token_order(Axes(each), grid, device) for each in axes]
    return TokenOrder(torch.stack([order.indices for order in orders if order is not None])[None])


@from_sizes(64)
def always_by_head(
    always: Always,
    axes: tuple[AxesName, ...],
    grid: TokenGrid,
    block_size: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Bool [H, Mb, Nb]: what is always kept, in each head's order."""
    return torch.stack([always.blocks(grid, Axes(each), block_size, device) for each in axes])
