"""Compensate: what a recipe adds to sparse attention in place of the blocks that it leaves out.

`residual` carries it along from a dense step; the others estimate it in every call.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

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
        device: "same", which is host memory where a GPU has no room; or "cpu": host memory, pinned where
            there is a GPU.
    """

    kind: Literal["residual"] = "residual"
    store: Store = "full"
    transport: bool = True
    branch_decay: Annotated[float, Field(ge=0)] = 0.3
    max_progress: Annotated[float, Field(gt=0, le=1)] = 0.4
    device: Literal["same", "cpu"] = "same"


@noun
class Rectified:
    """Scale every row of blocks to the mass it holds, and add those means of the other blocks whose score
    exceeds what pooling can get wrong (Rectified SpaAttn, arXiv 2511.19835).
    """

    kind: Literal["rectified"] = "rectified"


@noun
class Probed:
    """Compute a few rows in full, and fit what sparse attention lacks there to all other rows (the repair of
    SparsePR, arXiv 2608.18484).

    Args:
        probes: rows of each head; they count as work.
        directions: of the head dimension, the ones in which the probes lack most, that are repaired.
    """

    kind: Literal["probed"] = "probed"
    probes: Annotated[int, Field(ge=2)] = 64
    directions: Annotated[int, Field(ge=1)] = 16


def _residual_by_default(given: Any) -> Any:
    return {"kind": "residual", **given} if isinstance(given, dict) else given


AnyCompensation = Annotated[
    Compensate | Rectified | Probed, Field(discriminator="kind"), BeforeValidator(_residual_by_default)
]
