"""Check every tier that runs only where it has passed its check on the machine; results are kept there."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from accel.kernels.attention.tiers import cannot_run, checked_tiers
from accel.machine.tier_check import check_tier
from scripts.row_file import Row, RowFile


def main(
    dim: Annotated[int, typer.Argument(help="Dimensions of a head.")],
    out: Annotated[Path, typer.Argument(help="JSON lines to write, or to continue.")],
) -> None:
    """One row a tier, in bfloat16."""
    rows, device = RowFile(out), torch.device("cuda")
    for tier in checked_tiers():
        if cannot_run(tier, device, torch.bfloat16, dim) is None:
            rows.add(f"{tier} bfloat16 D{dim}", partial(result, tier, device, dim), 310)


def result(tier: str, device: torch.device, dim: int) -> Row:
    return {
        "tier": tier,
        "head_dim": dim,
        "result": check_tier(tier, device, torch.bfloat16, dim, again=False),
    }


if __name__ == "__main__":
    typer.run(main)
