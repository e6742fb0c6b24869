"""Selectors: which blocks to keep, given the mass of each and what must be kept anyway.

`mass` is float32 [B, H, Mb, Nb], not negative; `must` and `may` are bool and broadcast to it. Blocks outside
`may` are never kept, blocks in `must` always are and count towards the budget, and so does the heaviest
block of every row, so that no row is left without. Ties go to the lower head, row and column.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from accel.patches.context import HeadShare
from accel.policies.policy import STRICT
from accel.policies.ramp import Ramp, fixed

Share = Annotated[float, Field(gt=0, le=1)]
Budget = Literal["row", "head", "layer"]

FIRST_POOLED_AXIS = {"row": 3, "head": 2, "layer": 1}


@dataclass(frozen=True, config=STRICT)
class TopK:
    """A fixed share of the blocks.

    Args:
        density: kept blocks / blocks that may be kept, in (0, 1], or a ramp of it; rounded to whole blocks
            of a budget.
        budget: what shares one budget, the heaviest blocks first: the blocks of a "row", of all rows of a
            "head", or of all heads of a "layer"; samples of a batch never share.
        row_density: what every row gets of it first, its heaviest blocks, in [0, density].
    """

    density: Share | Ramp
    budget: Budget = "row"
    row_density: Annotated[float, Field(ge=0, le=1)] = 0.0
    kind: Literal["top_k"] = "top_k"

    def __post_init__(self) -> None:
        if self.row_density > (self.density.lowest if isinstance(self.density, Ramp) else self.density):
            raise ValueError(
                f"row_density must not exceed density, got {self.row_density} and {self.density}"
            )

    def keep(self, mass: Tensor, must: Tensor, may: Tensor | None = None) -> Tensor:
        if self.row_density:
            rows = Ranked.of(mass, must, may, "row")
            must = rows.keep_first(self.row_density * rows.available)
        ranked = Ranked.of(mass, must, may, self.budget)
        return ranked.keep_first(fixed(self.density) * ranked.available)


@dataclass(frozen=True, config=STRICT)
class TopP:
    """The smallest set that reaches a share of the mass, within bounds.

    Args:
        mass: share of a budget's mass to reach, in (0, 1], or a ramp of it; 1 keeps every block.
        min_density, max_density: bounds of kept blocks / blocks that may be kept, in [0, 1] and (0, 1].
        budget: what shares one budget, as for `TopK`.
    """

    mass: Share | Ramp
    min_density: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_density: Share = 1.0
    budget: Budget = "row"
    kind: Literal["top_p"] = "top_p"

    def __post_init__(self) -> None:
        if self.min_density > self.max_density:
            raise ValueError(
                f"min_density must not exceed max_density, got {self.min_density} and {self.max_density}"
            )

    def keep(self, mass: Tensor, must: Tensor, may: Tensor | None = None) -> Tensor:
        ranked = Ranked.of(mass, must, may, self.budget)
        mass_share = fixed(self.mass)
        reaching = ranked.available if mass_share == 1 else ranked.needed_for(mass_share)
        lowest = (self.min_density * ranked.available).round()
        highest = (self.max_density * ranked.available).round()
        return ranked.keep_first(reaching.clamp(lowest, highest))


Selector = Annotated[TopK | TopP, Field(discriminator="kind")]


def keep_of_share(
    select: TopK | TopP, mass: Tensor, must: Tensor, may: Tensor | None, heads: HeadShare | None
) -> Tensor:
    """`select.keep` for a share of a layer's heads, as if all of them were here; `heads` is none if they are.

    A budget of the layer is spent over all heads: their mass is gathered, and every process of the group must
    come here.
    """
    if heads is None or select.budget != "layer":
        return select.keep(mass, must, may)
    # Not every backend sends booleans.
    must_of_all = must if must.shape[1] == 1 else heads.gather(must.to(torch.uint8)).bool()
    return select.keep(heads.gather(mass), must_of_all, may)[:, heads.own]


class Ranked:
    """The blocks of each budget, what must be kept first, then by falling mass."""

    def __init__(
        self, values: Tensor, order: Tensor, required: Tensor, available: Tensor, shape: torch.Size
    ) -> None:
        self.values, self.order, self.required, self.available, self.shape = (
            values,
            order,
            required,
            available,
            shape,
        )

    @classmethod
    def of(cls, mass: Tensor, must: Tensor, may: Tensor | None, budget: Budget) -> Ranked:
        may = torch.ones_like(mass, dtype=torch.bool) if may is None else may.expand_as(mass)
        must = (must | _heaviest(mass, may)) & may
        mass = mass.masked_fill(~may, 0)
        rank_by = mass.masked_fill(must, torch.inf).masked_fill(~may, -1)
        pooled = FIRST_POOLED_AXIS[budget]
        order = rank_by.flatten(pooled).argsort(dim=-1, descending=True, stable=True)
        required, available = (flags.flatten(pooled).sum(dim=-1, keepdim=True) for flags in (must, may))
        return cls(mass.flatten(pooled).gather(-1, order), order, required, available, mass.shape)

    def needed_for(self, share: float) -> Tensor:
        """How many of the first reach `share` of the mass."""
        reached = self.values.cumsum(dim=-1, dtype=torch.float64)
        return (reached < share * reached[..., -1:]).sum(dim=-1, keepdim=True) + 1

    def keep_first(self, count: Tensor) -> Tensor:
        """Bool [B, H, Mb, Nb]: the first `count` of each budget, at least those required."""
        count = count.round().clamp(min=self.required).clamp(max=self.available)
        first = torch.arange(self.order.shape[-1], device=count.device) < count
        keep = torch.zeros_like(first.expand_as(self.order)).scatter(
            -1, self.order, first.expand_as(self.order)
        )
        return keep.reshape(self.shape)


def _heaviest(mass: Tensor, may: Tensor) -> Tensor:
    best = mass.masked_fill(~may, -1).argmax(dim=-1, keepdim=True)
    return torch.zeros_like(mass, dtype=torch.bool).scatter(-1, best, True)
