"""Try every tier that runs only where it has passed its test on the machine; verdicts are kept there."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from accel.kernels.tiers import ON_PROOF, cannot_run
from accel.tier_proof import prove
from row_file import Row, RowFile

DTYPES = (torch.bfloat16, torch.float16)
HEAD_DIMS = (128, 64, 96, 256)


def main(out: Annotated[Path, typer.Argument(help="JSON lines to write, and to go on with.")]) -> None:
    """One row a tier, type and head dim."""
    rows, device = RowFile(out), torch.device("cuda")
    for dtype in DTYPES:
        for tier in ON_PROOF:
            for dim in HEAD_DIMS:
                if cannot_run(tier, device, dtype, dim) is None:
                    rows.add(
                        f"{tier} {str(dtype)[6:]} D{dim}", partial(verdict, tier, device, dtype, dim), 310
                    )


def verdict(tier: str, device: torch.device, dtype: torch.dtype, dim: int) -> Row:
    return {
        "tier": tier,
        "dtype": str(dtype)[6:],
        "head_dim": dim,
        "verdict": prove(tier, device, dtype, dim, again=False),
    }


if __name__ == "__main__":
    typer.run(main)
