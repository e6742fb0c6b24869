"""Small calls of one tier, compared with the reference, or of planning; a sanitizer follows them in a minute.

compute-sanitizer --tool memcheck python -m scripts.gpu.small_calls rows.jsonl hopper
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from accel.kernels.attention import reference
from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.attention.tiers import cannot_take
from accel.kernels.layout.layout import BlockLayout
from accel.load.pipeline import best_device
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.hip import Hip
from accel.policies.parts.scores import Strided
from accel.policies.parts.selectors import TopK
from scripts.row_file import Row, RowFile, read_rows
from scripts.speed.kernels import WRONG, WRONG_OTHERWISE

# Ragged at both ends; the longest has more rows of blocks than an H200 has processors.
CALLS = {
    "plain": {"shape": (2, 300, 500), "block": (128, 64)},
    "causal with a tail": {"shape": (2, 300, 500), "block": (128, 128), "causal": True, "tail": True},
    "narrow keys": {"shape": (1, 130, 200), "block": (128, 32)},
    "longest first": {"shape": (8, 2200, 130), "block": (128, 64)},
}


def main(
    out: Annotated[Path, typer.Argument(help="JSON lines to write, or to continue.")],
    what: Annotated[str, typer.Argument(help="A tier, or planning.")],
) -> None:
    """Make the calls and wait for each; a sanitizer around this script reports what is wrong with them.

    Exits with 1 if a tier's result is wrong.
    """
    rows, device = RowFile(out), torch.device(best_device())
    if what == "planning":
        rows.add("planning", partial(plan, device), 200)
        return
    for name, call in CALLS.items():
        rows.add(f"{what} {name}", partial(attend, what, device, **call), 200)
    found = read_rows(out)[0]
    if any(row.get("outcome") != "passed" for row in found if "skipped" not in row):
        raise typer.Exit(1)


def attend(tier: str, device: torch.device, shape: tuple, block: tuple, **rest: bool) -> Row:
    heads, queries, keys = shape
    q, k, v = (torch.randn(1, heads, n, 128).to(device, torch.bfloat16) for n in (queries, keys, keys))
    keep = torch.rand(1, heads, -(-queries // block[0]), -(-keys // block[1])) < 0.5
    layout = BlockLayout.from_mask(keep.to(device), block, queries, keys, **rest)
    if reason := cannot_take(tier, layout):
        return {"skipped": reason}
    out = block_sparse_attention(q, k, v, layout, tier=tier)
    expected, _ = reference.block_sparse_attention(q.float(), k.float(), v.float(), layout)
    error = float((out.float() - expected).norm() / expected.norm())
    return {"error": error, "outcome": "passed" if error <= WRONG.get(tier, WRONG_OTHERWISE) else "failed"}


def plan(device: torch.device) -> Row:
    q, k = (torch.randn(1, 2, 700, 64).to(device, torch.bfloat16) for _ in range(2))
    must = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
    lengths = []
    for budget in ("row", "layer"):
        keep = TopK(0.3, budget).keep(Strided(8, 8).mass(q, k, (128, 64)), must)
        lengths.append(int(BlockLayout.from_mask(keep, (128, 64), 700, 700).kv_num_blocks.sum()))
    for grid in (TokenGrid(7, 10, 10), None):
        lengths.append(int(Hip(window=64).layout(q, k, grid, Context()).kv_num_blocks.sum()))
    return {"blocks": lengths}


if __name__ == "__main__":
    typer.run(main)
