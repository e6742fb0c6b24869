"""What planning costs, stage by stage, beside the dense attention it has to pay for itself against."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from accel.kernels.block_sparse_attention import block_sparse_attention
from accel.kernels.compact_lists import compact_lists
from accel.kernels.layout import BlockLayout
from accel.kernels.mean_pool import mean_pool
from accel.kernels.order import TokenOrder
from accel.kernels.work_order import work_order
from accel.load_pipeline import best_device
from accel.policies.scores import Pooled, Strided
from accel.policies.selectors import TopK, TopP
from accel.versions import device_name, versions
from bench_kernels import best_dense, milliseconds

BLOCK = (128, 128)
DENSITY = 0.25
BAR = 0.02  # of dense attention, from q and k to the lists


@dataclass(frozen=True)
class Stage:
    """One stage; `share` is of dense attention's time in the same run."""

    name: str
    ms: float
    share: float


def main(
    out: Annotated[Path, typer.Argument(help="JSON to write.")],
    shape: Annotated[str, typer.Option(help="B,H,N,D.")] = "1,40,75600,128",
    repeats: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    """Time every stage of planning; prints each as soon as it is measured."""
    device = torch.device(best_device())
    kind = torch.float32 if device.type == "cpu" else torch.bfloat16
    q, k, v = (torch.randn(*map(int, shape.split(",")), device=device, dtype=kind) for _ in range(3))

    def dense() -> Tensor:
        with best_dense(device):
            return scaled_dot_product_attention(q, k, v)

    base = median_ms(dense, device, repeats)
    print(f"dense {base:.3f} ms", flush=True)
    found = []
    for name, call in stages(q, k, v).items():
        ms = median_ms(call, device, repeats)
        found.append(Stage(name, round(ms, 4), round(ms / base, 5)))
        print(found[-1], flush=True)
    out.write_text(json.dumps(report(shape, base, found, device), indent=1))


def stages(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Callable[[], Any]]:
    """Every stage alone on the inputs it has in use, and two plans from q and k to lists as wholes."""
    must = torch.eye(-(-q.shape[2] // BLOCK[0]), dtype=torch.bool, device=q.device)[None, None]
    scores = {"strided 8 x 4": Strided(), "strided 16 x 8": Strided(16, 8), "pooled": Pooled()}
    mass = Strided().mass(q, k, BLOCK)
    keep = TopK(DENSITY).keep(mass, must)
    layout = BlockLayout.from_mask(keep, BLOCK, q.shape[2], k.shape[2])
    order = TokenOrder(torch.randperm(k.shape[2], device=k.device))

    def plan(score: Any, select: Any) -> BlockLayout:
        kept = select.keep(score.mass(q, k, BLOCK), must)
        return BlockLayout.from_mask(kept, BLOCK, q.shape[2], k.shape[2])

    selectors = {
        "top-k of a row": TopK(DENSITY),
        "top-k of a head": TopK(DENSITY, "head"),
        "top-k of the layer, a tenth to each row": TopK(DENSITY, "layer", 0.1),
        "top-p of a row": TopP(0.9, 0.1, 0.5),
        "top-p of the layer": TopP(0.9, 0.1, 0.5, "layer"),
    }
    return {
        "mean of the keys' blocks": partial(mean_pool, k, BLOCK[1]),
        **{f"score: {name}": partial(score.mass, q, k, BLOCK) for name, score in scores.items()},
        **{f"select: {name}": partial(select.keep, mass, must) for name, select in selectors.items()},
        "lists": partial(compact_lists, keep),
        "work order": partial(work_order, layout.kv_num_blocks),
        "keys into an order": partial(order.permute, k),
        "plan: pooled, top-k of a row": partial(plan, Pooled(), TopK(DENSITY)),
        "plan: strided 16 x 8, top-k of the layer": partial(plan, Strided(16, 8), TopK(DENSITY, "layer")),
        "plan: strided 8 x 4, top-k of the layer": partial(plan, Strided(), TopK(DENSITY, "layer")),
        "attention": partial(block_sparse_attention, q, k, v, layout),
    }


def report(shape: str, base: float, found: list[Stage], device: torch.device) -> dict[str, Any]:
    """What was measured, and which plans keep under the bar."""
    plans = [stage for stage in found if stage.name.startswith("plan: ")]
    return {
        "machine": {"device": device_name(device), **versions()},
        "shape": shape,
        "dense_ms": round(base, 4),
        "bar": BAR,
        "under_the_bar": {stage.name: stage.share <= BAR for stage in plans},
        "stages": [asdict(stage) for stage in found],
    }


def median_ms(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    for _ in range(2):
        call()
    return statistics.median(milliseconds(call, device) for _ in range(repeats))


if __name__ == "__main__":
    typer.run(main)
