"""PerHead: several candidates, from which every head of every layer uses the one that suits it."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout.by_head import heads_of
from accel.kernels.layout.layout import BlockLayout
from accel.noun import noun
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed
from accel.policies.dense import Dense
from accel.policies.parts.head_choice import Chooser, Table
from accel.policies.policy import Policy
from accel.policies.radial import Radial

Candidate = Annotated[Composed | Dense | Radial, Field(discriminator="method")]


@noun
class PerHead(Policy):
    """A plan by layer, head and part of the schedule, or a choice made from the input at every call.

    Args:
        candidates: methods with blocks of one size.
        choose: a table of the candidates' numbers, or what finds the best one for a head.

    Raises:
        ValueError: if the candidates' blocks differ, or the table names one that is not there.
    """

    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1, max_length=64)]
    choose: Chooser
    method: Literal["per_head"] = "per_head"

    def __post_init__(self) -> None:
        sizes = {candidate.block_size for candidate in self.candidates}
        if len(sizes) > 1:
            raise ValueError(f"candidates need blocks of one size, got {sorted(sizes)}")
        if isinstance(self.choose, Table) and self.choose.highest >= len(self.candidates):
            raise ValueError(
                f"the table names candidate {self.choose.highest}; "
                f"there are {len(self.candidates)}, counted from 0"
            )

    @property
    def block_size(self) -> tuple[int, int]:
        return self.candidates[0].block_size

    @property
    def static(self) -> bool:  # type: ignore[override]
        return isinstance(self.choose, Table) and all(one.static for one in self.candidates)

    @property
    def spans_heads(self) -> bool:  # type: ignore[override]
        return any(one.spans_heads for one in self.candidates)

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        """The blocks of each head's candidate.

        Raises:
            ValueError: if the table is of another model, or a candidate cannot plan this call.
        """
        if not isinstance(self.choose, Table):
            layouts = [one.layout(q, k, grid, context) for one in self.candidates]
            return heads_of(layouts, self.choose.choose(q, k, layouts))
        numbers = self.choose.of_call(q.shape[1], context)
        used = sorted(set(numbers))
        layouts = [self.candidates[number].layout(q, k, grid, context) for number in used]
        if len(used) == 1:
            return layouts[0]
        places = torch.tensor([[used.index(number) for number in numbers]])
        return heads_of(layouts, places.to(q.device, non_blocking=True))
