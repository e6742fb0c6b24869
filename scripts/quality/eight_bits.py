"""Relative errors of the int8 kernel on the demo's own attention calls.

    python -m scripts.quality.eight_bits rows.jsonl --captures captures

Without a GPU the kernel runs in Triton's interpreter, on a few blocks of queries. Errors are norms over that
of the truth, float64 on the same bfloat16 inputs. The goal of `error` at a density below 1 is the error of
the sparsity itself plus twice that of bfloat16.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from accel.comparison.quality import relative_error
from accel.kernels.attention import gathered, reference
from accel.kernels.layout.layout import BlockLayout
from accel.policies.parts.scores import Strided
from accel.policies.parts.selectors import TopK
from scripts.quality.samples import Sample, demo_samples
from scripts.row_file import Row, RowFile

LAYERS, STEPS = (0, 1, 4, 7), (2, 6)
DENSITIES = (1.0, 0.4, 0.25)
BLOCK = (128, 64)
EVERY = 10  # blocks of queries
BAR = 0.011


def main(
    out: Annotated[Path, typer.Argument(help="JSON lines to write, or to continue.")],
    captures: Annotated[Path, typer.Option(help="Folder to keep captured calls in.")] = Path("captures"),
    prompt: Annotated[int, typer.Option(min=0, help="Number of the prompt.")] = 0,
) -> None:
    """One row for each call and density."""
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    captures.mkdir(parents=True, exist_ok=True)
    rows = RowFile(out)
    for sample in demo_samples([prompt], LAYERS, STEPS, captures):
        for density in DENSITIES:
            rows.add(f"{sample.name}, density {density}", partial(measure, sample, density), limit=200)


@torch.no_grad()
def measure(sample: Sample, density: float) -> Row:
    from accel.kernels.int8.attention import block_sparse_attention as int8_attention

    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v = (x.to(device, torch.bfloat16) for x in (sample.q, sample.k, sample.v))
    must = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
    keep = TopK(density).keep(Strided(8, 8).mass(q.float(), k.float(), BLOCK), must)
    picked = torch.arange(EVERY // 2, q.shape[2] // BLOCK[0], EVERY, device=device)
    q = q[:, :, : q.shape[2] // BLOCK[0] * BLOCK[0]].unflatten(2, (-1, BLOCK[0]))[:, :, picked].flatten(2, 3)
    sizes = BLOCK, q.shape[2], k.shape[2]
    layout = BlockLayout.from_mask(keep[:, :, picked], *sizes)
    wide = [x.double() for x in (q, k, v)]
    truth, _ = reference.block_sparse_attention(*wide, layout)
    dense, _ = reference.block_sparse_attention(*wide, BlockLayout.full(*sizes[1:], BLOCK, device=device))
    half, _ = gathered.block_sparse_attention(q, k, v, layout)
    found, _ = int8_attention(q, k, v, layout)
    bf16, int8, sparsity, error = (
        round(relative_error(one, other), 5)
        for one, other in ((half, truth), (found, truth), (truth, dense), (found, dense))
    )
    met = int8 <= BAR and (density == 1.0 or error <= sparsity + 2 * bf16)
    return {"density": density, "bf16": bf16, "int8": int8, "sparsity": sparsity, "error": error, "met": met}


if __name__ == "__main__":
    typer.run(main)
