"""Measure what each policy loses: recall, output error and planning time at equal density, on real q, k, v.

    python scripts/bench_policies.py results --prompts 3
    python scripts/bench_policies.py results --no-demo --density 0.1 --density 0.2

Writes results/policies.csv (one row a measurement), results/policies.json and results/policies.md (means over
the samples). Samples are captured from the embedded video demo, or synthetic ones with heads of known shape.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from accel.kernels.block_sparse_attention import block_sparse_attention
from accel.kernels.layout import BlockLayout
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed
from accel.policies.draft import Draft
from accel.policies.hip import Hip
from accel.policies.orders import Hilbert, Order, RowMajor, Tile
from accel.policies.permuted import Permuted
from accel.policies.policy import Policy
from accel.policies.radial import Radial
from accel.policies.scores import Antidiagonal, Pooled, Sampled, Score, Strided, SubBlock
from accel.policies.selectors import Budget, TopK, TopP
from accel.policies.stage_search import Stages
from accel.policies.tree_search import Tree
from attention_samples import Sample, samples

BLOCK = (64, 64)
DECAYS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)


@dataclass(frozen=True)
class Measurement:
    """What one method did to one sample.

    Args:
        wanted: the density asked for.
        density: executed blocks / all blocks.
        recall: share of the attention mass on executed blocks, mean over rows.
        error: Frobenius norm of the output's error over that of the dense output.
        plan_ms: milliseconds to choose the blocks, once the geometry is known.
    """

    sample: str
    method: str
    wanted: float
    density: float
    recall: float
    error: float
    plan_ms: float


@dataclass(frozen=True)
class Chance(Policy):
    """The diagonal and random blocks."""

    density: float
    method: str = "random"

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        blocks = -(-q.shape[2] // BLOCK[0])
        mass = torch.rand(1, q.shape[1], blocks, blocks, generator=torch.Generator().manual_seed(0)).to(
            q.device
        )
        must = torch.eye(blocks, dtype=torch.bool, device=q.device)[None, None]
        return BlockLayout.from_mask(TopK(self.density).keep(mass, must), BLOCK, q.shape[2], k.shape[2])


def composed(
    score: Score, budget: Budget, share: float = 0.0, order: Order | None = None, tail: bool = False
) -> Callable[[float], Composed]:
    """Policies of one composition, by density; `share` of it goes to every row alike."""
    return lambda density: Composed(
        order=order or RowMajor(),
        score=score,
        select=TopK(density, budget, row_density=share * density),
        tail=tail,
        block_size=BLOCK,
    )


SCORES = {
    "pooled": Pooled(),
    "sub-block 16": SubBlock(16, 16),
    "strided 8x4": Strided(8, 4),
    "strided 16x8": Strided(16, 8),
    "antidiagonal 16": Antidiagonal(16),
    "antidiagonal 8": Antidiagonal(8),
    "sampled 16": Sampled(16),
}
ORDERS = {"tile 1x8x8": Tile((1, 8, 8)), "tile 4x4x4": Tile((4, 4, 4)), "hilbert": Hilbert()}
BY_DENSITY: dict[str, Callable[[float], Policy]] = {
    "random": Chance,
    **{f"oracle, {budget}": composed(Strided(1, 1), budget) for budget in ("row", "layer")},
    **{
        f"{name}, {budget}": composed(score, budget)
        for name, score in SCORES.items()
        for budget in ("row", "head", "layer")
    },
    **{
        f"{name}, layer, rows half{', tail' * tail}": composed(SCORES[name], "layer", share=0.5, tail=tail)
        for name in ("pooled", "sub-block 16", "strided 8x4", "strided 16x8", "antidiagonal 8")
        for tail in (False, True)
    },
    "pooled, row, tail": composed(SCORES["pooled"], "row", tail=True),
    **{
        f"{name}, {budget}, {order}": composed(SCORES[name], budget, share, kind)
        for name, budget, share in (("pooled", "row", 0), ("strided 8x4", "layer", 0.5))
        for order, kind in ORDERS.items()
    },
    "draft, head": lambda d: Draft(density=d, select="head_threshold", region=(8, 8), block_size=BLOCK),
    "draft, row": lambda d: Draft(density=d, select="row_top_k", region=(8, 8), block_size=BLOCK),
    "permuted 256": lambda d: Permuted(select=TopK(d), block_size=BLOCK),
    "permuted all": lambda d: Permuted(select=TopK(d), segment=None, block_size=BLOCK),
    "permuted 256, strided, layer": lambda d: Permuted(
        select=TopK(d, "layer", 0.5 * d), score=SCORES["strided 8x4"], block_size=BLOCK
    ),
    "hip tree": lambda d: Hip(density=d, search=Tree(), block_size=BLOCK),
    "hip stages": lambda d: Hip(density=d, search=Stages(), block_size=BLOCK),
}
BY_MASS: dict[str, Callable[[float], Policy]] = {
    f"{name}, top-p": (
        lambda mass, score=SCORES[name]: Composed(score=score, select=TopP(mass), block_size=BLOCK)
    )
    for name in ("pooled", "sub-block 16", "strided 8x4")
}


def main(
    out: Annotated[Path, typer.Argument(help="folder to write to")],
    prompts: Annotated[int, typer.Option(min=1, help="demo prompts to capture")] = 2,
    layers: Annotated[list[int] | None, typer.Option("--layer", help="demo layers; repeat")] = None,
    steps: Annotated[list[int] | None, typer.Option("--step", help="demo steps; repeat")] = None,
    densities: Annotated[list[float] | None, typer.Option("--density", help="repeat")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="names begin so; repeat")] = None,
    demo: Annotated[bool, typer.Option(help="capture the embedded demo")] = True,
    synthetic: Annotated[bool, typer.Option(help="add synthetic samples")] = True,
    captures: Annotated[Path | None, typer.Option(help="file to keep the captured samples in")] = None,
) -> None:
    """Measure every policy on every sample at every density."""
    warnings.filterwarnings("ignore", message="radial: decay")
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Measurement] = []
    for sample in samples(demo, synthetic, prompts, layers or [1, 3, 5, 7], steps or [2, 5], captures):
        started = time.perf_counter()
        for density in densities or [0.1, 0.2, 0.3, 0.5]:
            rows += measure_all(sample, density, methods)
        typer.echo(f"{sample.name}: {time.perf_counter() - started:.0f} s")
        write(out, rows)


def measure_all(sample: Sample, density: float, chosen: list[str] | None) -> Iterator[Measurement]:
    q, k, v = sample.q, sample.k, sample.v
    dense = block_sparse_attention(q, k, v, BlockLayout.full(q.shape[2], k.shape[2], BLOCK), return_lse=True)
    for name, policy in policies(sample, density):
        if not chosen or name.startswith(tuple(chosen)):
            yield measure(sample, name, policy, density, dense)


def policies(sample: Sample, density: float) -> Iterator[tuple[str, Policy]]:
    """All methods, those without a density set to come closest to it on this sample."""
    for name, build in BY_DENSITY.items():
        yield name, build(density)
    for rule in ("wan", "hunyuan"):
        every = [Radial(decay=decay, rule=rule, block_size=BLOCK) for decay in DECAYS]
        yield f"radial {rule}", min(every, key=lambda policy: abs(density_of(policy, sample) - density))
    for name, build in BY_MASS.items():
        low, high = 0.0, 1.0
        for _ in range(8):
            middle = (low + high) / 2
            low, high = (middle, high) if density_of(build(middle), sample) < density else (low, middle)
        yield name, build(high)


def density_of(policy: Policy, sample: Sample) -> float:
    return policy.layout(sample.q, sample.k, sample.context.grid, sample.context).density.item()


def measure(
    sample: Sample, name: str, policy: Policy, wanted: float, dense: tuple[Tensor, Tensor]
) -> Measurement:
    q, k, v, context = sample.q, sample.k, sample.v, sample.context
    policy.layout(q, k, context.grid, context)
    started = time.perf_counter()
    layout = policy.layout(q, k, context.grid, context)
    plan_ms = (time.perf_counter() - started) * 1e3
    out, lse = block_sparse_attention(q, k, v, replace(layout, tail=False), return_lse=True)
    recall = (lse - dense[1]).exp().mean().item()
    if layout.tail:
        out = block_sparse_attention(q, k, v, layout)
    error = ((out - dense[0]).norm() / dense[0].norm()).item()
    return Measurement(sample.name, name, wanted, layout.density.item(), recall, error, plan_ms)


def write(out: Path, rows: list[Measurement]) -> None:
    with (out / "policies.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    (out / "policies.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    (out / "policies.md").write_text(table(rows))


def table(rows: list[Measurement]) -> str:
    """Means over samples, one line a method, demo and synthetic samples apart; ordered by error."""
    parts = []
    for kind in dict.fromkeys(row.sample.split()[0] for row in rows):
        for wanted in sorted({row.wanted for row in rows}):
            here = [row for row in rows if row.wanted == wanted and row.sample.startswith(kind)]
            count = len({row.sample for row in here})
            parts.append(f"\n## {kind}, density {wanted:g}, means over {count} samples\n")
            parts.append("| method | density | recall | relative error | plan, ms |\n|---|---|---|---|---|")
            lines = []
            for method in dict.fromkeys(row.method for row in here):
                own = [row for row in here if row.method == method]
                means = [
                    statistics.fmean(getattr(r, f) for r in own)
                    for f in ("density", "recall", "error", "plan_ms")
                ]
                lines.append((means[2], "| {} | {:.3f} | {:.3f} | {:.4f} | {:.1f} |".format(method, *means)))
            parts += [line for _, line in sorted(lines)]
    return "\n".join(parts).lstrip() + "\n"


if __name__ == "__main__":
    typer.run(main)
