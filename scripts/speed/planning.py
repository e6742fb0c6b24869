"""What planning costs, stage by stage, compared with dense attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.layout.compact_lists import compact_lists
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.kernels.layout.work_order import work_order
from accel.kernels.planning.representatives import ragged_mean
from accel.load.pipeline import best_device
from accel.policies.parts.scores import Pooled, Strided
from accel.policies.parts.selectors import TopK, TopP
from scripts.row_file import RowFile
from scripts.speed.dense_baseline import dense_attention
from scripts.speed.timing import medians

BLOCK = (128, 128)
DENSITY = 0.25
BAR = 0.02  # of dense attention, from q and k to the lists


def main(
    out: Annotated[Path, typer.Argument(help="JSON lines to write, or to continue.")],
    shape: Annotated[str, typer.Option(help="B,H,N,D.")] = "1,40,75600,128",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="By default it depends on the length of the calls.")
    ] = None,
) -> None:
    """Time every stage of planning, and dense attention; prints each as soon as it is measured."""
    device = torch.device(best_device())
    kind = torch.float32 if device.type == "cpu" else torch.bfloat16
    q, k, v = (torch.randn(*map(int, shape.split(",")), device=device, dtype=kind) for _ in range(3))
    rows = RowFile(out)
    _, dense = dense_attention(q, k, v)
    dense()

    def measure(call: Callable[[], Any]) -> dict[str, Any]:
        """`share` is of dense attention's time in the same run; under the bar or not, for whole plans."""
        for _ in range(2):
            call()
        ms, dense_ms = medians([call, dense], device, rounds)
        return {
            "shape": shape,
            "block_size": "x".join(map(str, BLOCK)),
            "ms": round(ms, 4),
            "dense_ms": round(dense_ms, 3),
            "share": round(ms / dense_ms, 5),
        }

    for name, call in stages(q, k, v).items():
        rows.add(name, partial(measure, call), limit=90)


def stages(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Callable[[], Any]]:
    """Whole plans from q and k to lists first, then every stage separately on its usual inputs."""
    must = torch.eye(-(-q.shape[2] // BLOCK[0]), dtype=torch.bool, device=q.device)[None, None]
    scores = {"8 x 8": Strided(8, 8), "8 x 4": Strided(), "16 x 8": Strided(16, 8)}
    mass = Strided(8, 8).mass(q, k, BLOCK)
    shipped = TopK(DENSITY, "layer", DENSITY / 2)
    keep = TopK(DENSITY).keep(mass, must)
    layout = BlockLayout.from_mask(keep, BLOCK, q.shape[2], k.shape[2])
    order = TokenOrder(torch.randperm(k.shape[2], device=k.device))

    def plan(score: Any, select: Any) -> BlockLayout:
        kept = select.keep(score.mass(q, k, BLOCK), must)
        return BlockLayout.from_mask(kept, BLOCK, q.shape[2], k.shape[2])

    selectors = {
        "top-k of a row": TopK(DENSITY),
        "top-k of a head": TopK(DENSITY, "head"),
        "top-k of the layer, half to each row": shipped,
        "top-p of a row": TopP(0.9, 0.1, 0.5),
        "top-p of the layer": TopP(0.9, 0.1, 0.5, "layer"),
    }
    return {
        "plan: pooled, top-k of a row": partial(plan, Pooled(), TopK(DENSITY)),
        **{
            f"plan: strided {name}, top-k of the layer, half to each row": partial(plan, score, shipped)
            for name, score in scores.items()
        },
        "mean of the keys' blocks": partial(ragged_mean, k, 2, BLOCK[1]),
        "score: pooled": partial(Pooled().mass, q, k, BLOCK),
        **{f"score: strided {name}": partial(score.mass, q, k, BLOCK) for name, score in scores.items()},
        **{f"select: {name}": partial(select.keep, mass, must) for name, select in selectors.items()},
        "lists": partial(compact_lists, keep),
        "work order": partial(work_order, layout.kv_num_blocks),
        "keys into an order": partial(order.permute, k),
        "attention": partial(block_sparse_attention, q, k, v, layout),
    }


if __name__ == "__main__":
    typer.run(main)
