"""Check every tier that runs only where it has passed its check on the machine, and time those that have.

Results are kept on the machine.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from accel.kernels.attention.tiers import cannot_run, checked_tiers
from accel.kernels.timings import BLOCKS, Call
from accel.machine.tier_check import check_tier
from accel.machine.tier_timing import tier_times, time_tiers
from scripts.row_file import Row, RowFile


def main(
    dim: Annotated[int, typer.Argument(help="Dimensions of a head.")],
    out: Annotated[Path, typer.Argument(help="JSON lines to write, or to continue.")],
) -> None:
    """One row a tier, and one of times for each size of blocks, in bfloat16."""
    rows, device = RowFile(out), torch.device("cuda")
    for tier in checked_tiers():
        if cannot_run(tier, device, torch.bfloat16, dim) is None:
            rows.add(f"{tier} bfloat16 D{dim}", partial(result, tier, device, dim), 310)
    for block in BLOCKS:
        rows.add(f"times bfloat16 D{dim} {block[0]}x{block[1]}", partial(times, device, dim, block), 100)


def result(tier: str, device: torch.device, dim: int) -> Row:
    return {
        "tier": tier,
        "head_dim": dim,
        "result": check_tier(tier, device, torch.bfloat16, dim, again=False),
    }


def times(device: torch.device, dim: int, block: tuple[int, int]) -> Row:
    problem = time_tiers(device, torch.bfloat16, dim, again=False)
    found = tier_times(Call(device, torch.bfloat16, dim, block))
    taken = ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in found.items())
    return {"seconds": found, "head_dim": dim, "result": taken or problem}


if __name__ == "__main__":
    typer.run(main)
