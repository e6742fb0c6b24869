"""Try every tier that runs only where it has passed its test on the machine; verdicts are kept there."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from accel.kernels.attention.tiers import cannot_run, on_proof
from accel.machine.tier_proof import prove
from scripts.row_file import Row, RowFile


def main(
    dim: Annotated[int, typer.Argument(help="Dimensions of a head.")],
    out: Annotated[Path, typer.Argument(help="JSON lines to write, and to go on with.")],
) -> None:
    """One row a tier, in bfloat16."""
    rows, device = RowFile(out), torch.device("cuda")
    for tier in on_proof():
        if cannot_run(tier, device, torch.bfloat16, dim) is None:
            rows.add(f"{tier} bfloat16 D{dim}", partial(verdict, tier, device, dim), 310)


def verdict(tier: str, device: torch.device, dim: int) -> Row:
    return {"tier": tier, "head_dim": dim, "verdict": prove(tier, device, torch.bfloat16, dim, again=False)}


if __name__ == "__main__":
    typer.run(main)
