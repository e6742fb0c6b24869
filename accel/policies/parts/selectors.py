"""Selectors: which blocks to keep, given the mass of each and what must be kept anyway.

`mass` is float32 [B, H, Mb, Nb], not negative; `must` and `may` are bool and broadcast to it. Blocks outside
`may` are never kept, blocks in `must` always are and count towards the budget, and so does the heaviest
block of every row, so that no row is left without. Ties go to the lower head, row and column; NaN weighs
less than any number.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.planning.budgets import Budget
from accel.kernels.planning.heaviest import keep_heaviest
from accel.kernels.planning.outstanding import keep_outstanding
from accel.noun import noun
from accel.patches.context import HeadShare
from accel.policies.parts.ramp import Ramp, fixed

Share = Annotated[float, Field(gt=0, le=1)]


@noun
class TopK:
    """A fixed share of the blocks.

    Args:
        density: kept blocks / blocks that may be kept, in (0, 1], or a ramp of it; rounded to whole blocks
            of a budget.
        budget: what shares one budget, the heaviest blocks first: the blocks of a "row", of all rows of a
            "head", or of all heads of a "layer"; samples of a batch never share.
        row_density: what every row gets of it first, its heaviest blocks, in [0, density].
        least_blocks: what a row gets on average even where `density` says less: a short sequence has few
            blocks, and every row needs some. A mean need not be whole where rows share a budget.
        layer_density: the density of each layer, in call order, in place of `density` for all of them; a
            model must have as many. What a budget by mass would spend on average, at a cost that is fixed.
    """

    density: Share | Ramp
    budget: Budget = "row"
    row_density: Annotated[float, Field(ge=0, le=1)] = 0.0
    least_blocks: Annotated[float, Field(ge=0)] = 0.0
    layer_density: tuple[Share, ...] | None = None
    kind: Literal["top_k"] = "top_k"

    def __post_init__(self) -> None:
        densities = self.layer_density or (
            self.density.lowest if isinstance(self.density, Ramp) else self.density,
        )
        if self.row_density > min(densities):
            lowest = min(densities)
            raise ValueError(f"row_density must not exceed density, got {self.row_density} and {lowest}")

    def at_layer(self, layer: int, n_layers: int) -> TopK:
        """What holds in one layer.

        Raises:
            ValueError: if the table is of a model with another number of layers.
        """
        if self.layer_density is None:
            return self
        if len(self.layer_density) != n_layers:
            raise ValueError(
                f"layer_density has {len(self.layer_density)} entries, this model has {n_layers} layers"
            )
        return replace(self, density=self.layer_density[layer], layer_density=None)

    def keep(self, mass: Tensor, must: Tensor, may: Tensor | None = None) -> Tensor:
        if self.row_density:
            must = keep_heaviest(mass, must, may, "row", self.row_density)
        density = fixed(self.density)
        return keep_heaviest(mass, must, may, self.budget, density, least=self.least_blocks)


@noun
class TopP:
    """The smallest set that reaches a share of the mass, within bounds.

    Args:
        mass: share of a budget's mass to reach, in (0, 1], or a ramp of it; 1 keeps every block.
        min_density, max_density: bounds of kept blocks / blocks that may be kept, in [0, 1] and (0, 1].
        budget: what shares one budget, as for `TopK`. A "layer" spends more where attention is spread out,
            in heads and layers alike.
        row_density: what every row gets first, its heaviest blocks, in [0, max_density].
    """

    mass: Share | Ramp
    min_density: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_density: Share = 1.0
    budget: Budget = "row"
    row_density: Annotated[float, Field(ge=0, le=1)] = 0.0
    kind: Literal["top_p"] = "top_p"

    def __post_init__(self) -> None:
        if self.min_density > self.max_density:
            raise ValueError(
                f"min_density must not exceed max_density, got {self.min_density} and {self.max_density}"
            )
        if self.row_density > self.max_density:
            raise ValueError(
                f"row_density must not exceed max_density, got {self.row_density} and {self.max_density}"
            )

    def at_layer(self, layer: int, n_layers: int) -> TopP:
        """What holds in one layer: the same in all."""
        return self

    def keep(self, mass: Tensor, must: Tensor, may: Tensor | None = None) -> Tensor:
        if self.row_density:
            must = keep_heaviest(mass, must, may, "row", self.row_density)
        mass_share = fixed(self.mass)
        share = None if mass_share == 1 else mass_share
        return keep_heaviest(mass, must, may, self.budget, self.max_density, self.min_density, share)


@noun
class Deviation:
    """The blocks of a row that stand out: the logarithm of their mass is `beta` standard deviations above
    the row's mean (Sol-Attn, arXiv 2607.24027).

    Pooled scores are about normal, so a row keeps about 1 - Phi(beta) of its blocks: 0.16 at 1, 0.07 at 1.5.
    If few blocks stand out, few are kept; nothing is sorted and there is no budget.

    Args:
        beta: standard deviations; higher keeps fewer.
    """

    beta: Annotated[float, Field(ge=-8, le=8)]
    budget: ClassVar[Budget] = "row"
    kind: Literal["deviation"] = "deviation"

    def at_layer(self, layer: int, n_layers: int) -> Deviation:
        """What holds in one layer: the same in all."""
        return self

    def keep(self, mass: Tensor, must: Tensor, may: Tensor | None = None) -> Tensor:
        return keep_outstanding(mass, must, may, self.beta)


Selector = Annotated[TopK | TopP | Deviation, Field(discriminator="kind")]


def keep_of_share(
    select: TopK | TopP | Deviation, mass: Tensor, must: Tensor, may: Tensor | None, heads: HeadShare | None
) -> Tensor:
    """`select.keep` for a share of a layer's heads, as if all of them were here; `heads` is None if they are.

    A budget of the layer is spent over all heads: their mass is gathered, and every process of the group must
    come here.
    """
    if heads is None or select.budget != "layer":
        return select.keep(mass, must, may)
    # Not every backend sends booleans.
    must_of_all = must if must.shape[1] == 1 else heads.gather(must.to(torch.uint8)).bool()
    return select.keep(heads.gather(mass), must_of_all, may)[:, heads.own]
