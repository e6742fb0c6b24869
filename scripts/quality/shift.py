"""Why ranking blocks by approximation error loses: each call's error, and how much of it is a shift.

    python -m scripts.quality.shift docs/benchmarks/policies-shift.json --pair 4

Dense runs of the demo, both branches, all layers. Shift: the share of the squared error that is the same for
all queries of a frame, which does not average out in what follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.layout.blocks import per_head
from accel.machine.versions import device_name, versions
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.parts.scores import Strided
from scripts.quality.methods import METHODS, default
from scripts.quality.samples import heads_first, watch_dense
from scripts.quality.videos import BLOCKS
from scripts.row_file import read_table, write_table

STEPS = (2, 3, 5, 7)
DENSITY = 0.4
COMPARED = {
    "default": METHODS["default"],
    "default, tail": default(Strided(8, 8), tail=True),
    "default, tail, by error": METHODS["default, tail, by error"],
}


def main(
    out: Annotated[Path, typer.Argument(help="JSON file to write, or to continue.")],
    pair: Annotated[list[int], typer.Option(help="Number of a prompt and seed; repeat.")],
    size: Annotated[int, typer.Option(help="Pixels of a side, 128 or 192.")] = 128,
) -> None:
    """Judge every call of a dense run under each method, and write a row for each."""
    rows: list[dict[str, Any]] = read_table(out)
    for number in pair:
        if any((row["pair"], row["size"]) == (number, size) for row in rows):
            continue
        rows += judge_run(number, size)
        found = {"machine": {"device": device_name("cpu"), **versions()}, "density": DENSITY}
        write_table(out, rows, found)


def judge_run(number: int, size: int) -> list[dict[str, Any]]:
    """One row for each step of STEPS, branch, layer and method."""
    rows: list[dict[str, Any]] = []
    grid, block = TokenGrid(9, size // 8, size // 8), BLOCKS[size]

    def see(context: Context, *call: Tensor) -> None:
        if context.step not in STEPS:
            return
        q, k, v, dense = (heads_first(x) for x in call)
        for name, build in COMPARED.items():
            layout = build(DENSITY, block, grid).layout(q, k, grid, context)
            error = block_sparse_attention(q, k, v, layout) - dense
            rows.append(
                {
                    "pair": number,
                    "size": size,
                    "layer": context.layer,
                    "step": context.step,
                    "branch": context.branch,
                    "method": name,
                    "error": (error.norm() / dense.norm()).item(),
                    "shift": frame_share(error, grid.frames),
                    "densities": per_head(layout.listed, q.shape[1])[0].float().mean((1, 2)).tolist(),
                }
            )

    watch_dense(number, size, see)
    return rows


def frame_share(error: Tensor, frames: int) -> float:
    """Share of the squared error [B, H, N, D] that is in its means over the tokens of a frame, in [0, 1]."""
    by_frame = error.unflatten(2, (frames, -1))
    return (by_frame.mean(3).square().sum() * by_frame.shape[3] / error.square().sum()).item()


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
