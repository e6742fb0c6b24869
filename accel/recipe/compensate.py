"""Compensate: what a recipe adds to sparse attention in place of the blocks that it leaves out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from accel.noun import noun


@noun
class Rank:
    """Keep a residual as a product of rank `rank` for each head, in place of all its numbers."""

    rank: Annotated[int, Field(ge=1)]


Store = Literal["full", "int8", "int4"] | Rank


@noun
class Compensate:
    """Carry what the last dense step shows of the blocks left out, the residual, to the sparse ones after it.

    At a dense step before a sparse one, attention runs over the chosen blocks and over all others, and is
    joined by the log-sum-exp: the dense output, at dense cost, though not bit for bit. The difference to the
    chosen blocks alone, O - O_s, is kept and added in the sparse steps that use the same blocks.

    Args:
        kind: the only one.
        store: how it is kept: in full, in 8 or 4 bits, or by rank for each head.
        transport: the residual follows the values: it is multiplied by the D x D map that takes the values of
            its step to those of the step it is added in, in the least-squares sense (one for each head).
        branch_decay: share of the schedule in which the difference between the branches of guidance fades,
            exp(-age / branch_decay); their mean is kept. 0 keeps one residual, of the first branch, for all.
        max_progress: residuals older than this share of the schedule are not added.
        device: "same", or "cpu": host memory, pinned where there is a GPU.
    """

    kind: Literal["residual"] = "residual"
    store: Store = "full"
    transport: bool = True
    branch_decay: Annotated[float, Field(ge=0)] = 0.3
    max_progress: Annotated[float, Field(gt=0, le=1)] = 0.4
    device: Literal["same", "cpu"] = "same"
