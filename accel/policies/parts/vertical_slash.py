"""VerticalSlash: the keys and distances that the last queries look at most (arXiv 2407.02490)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.noun import noun
from accel.policies.parts.lines import blocks_of_lines, line_sums

Count = Annotated[int, Field(ge=1)]


@noun
class VerticalSlash:
    """Every line is rounded up to the blocks it runs through; nothing chosen is left out.

    Args:
        verticals, slashes: how many keys and how many distances, for every head the same.
        first, nearest: how many of the first keys and of the smallest distances are among them in any case.
        probes: the last queries that show them.
    """

    verticals: Count = 1000
    slashes: Count = 6096
    first: Annotated[int, Field(ge=0)] = 30
    nearest: Count = 100
    probes: Count = 64
    kind: Literal["vertical_slash"] = "vertical_slash"

    def blocks(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Tensor:
        """Bool [B, H, Mb, Nb] of a causal sequence; q [B, H, M, D] are the last of the k [B, Hkv, N, D]."""
        columns, slashes = line_sums(q, k, self.probes)
        columns[..., : self.first] = torch.inf
        slashes[..., : self.nearest] = torch.inf
        return blocks_of_lines(
            strongest(columns, self.verticals), strongest(slashes, self.slashes), block_size, q.shape[2]
        )


def strongest(sums: Tensor, count: int) -> Tensor:
    """Bool, like `sums` [..., N]: the `count` largest, ties to the first; all where there are fewer."""
    order = sums.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(sums, dtype=torch.bool).scatter(-1, order, True)
