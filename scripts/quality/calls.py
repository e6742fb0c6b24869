"""Measure what each method loses on q, k, v: recall, output error and planning cost at equal density.

    python -m scripts.quality.calls docs/benchmarks/policies.json --captures captures
    python -m scripts.quality.calls docs/benchmarks/policies-held-out.json --held-out
    python -m scripts.quality.calls out.json --synthetic 0 --density 0.4 --method default

Samples are captured from the embedded demo (prompts x layers x steps) and synthesised at the size of Wan at
480p. Rows in the file are not measured again. Every number except the milliseconds repeats exactly; those are
of one CPU core and are meaningful only on an idle machine.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from accel.kernels.layout.layout import BlockLayout
from accel.machine.versions import device_name, versions
from accel.policies.parts.always import Always
from accel.policies.parts.ordering.orders import RowMajor
from accel.policies.parts.scores import Exact
from accel.policies.parts.selectors import Budget, TopK
from accel.policies.policy import Policy
from scripts.quality.error import Probes
from scripts.quality.methods import METHODS, BlockSize, shared
from scripts.quality.planning_cost import planning_cost
from scripts.quality.prompts import FIRST_HELD_OUT
from scripts.quality.samples import Sample, demo_samples
from scripts.quality.synthetic import synthetic_sample
from scripts.row_file import read_table, write_table

LAYERS = (0, 2, 5, 7)
STEPS = (2, 4, 7)
DENSITIES = (0.1, 0.2, 0.3, 0.4, 0.5)
BLOCKS: dict[str, BlockSize] = {"demo": (64, 64), "synthetic": (128, 64)}
# Primes: the sampled queries meet every column of the grid and every position in a block.
PROBE_STEPS = {"demo": 11, "synthetic": 61}
ORACLES: dict[str, Budget] = {"oracle, row": "row", "oracle, layer": "layer"}


@dataclass(frozen=True)
class Row:
    """What one method did to one sample.

    Args:
        wanted: the density asked for.
        density: executed blocks / all blocks.
        recall, error: see `Judgement`.
        cost: multiply-adds of the choice / those of QKᵀ.
        plan_ms: milliseconds to choose the blocks, once the geometry is known; None for oracles.
    """

    kind: str
    prompt: int
    layer: int
    step: int
    method: str
    wanted: float
    density: float
    recall: float
    error: float
    cost: float
    plan_ms: float | None


def main(
    out: Annotated[Path, typer.Argument(help="JSON file to write, or to continue")],
    prompts: Annotated[int, typer.Option(min=1, max=8, help="demo prompts")] = 3,
    densities: Annotated[list[float] | None, typer.Option("--density", help="repeat")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="only these; repeat")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="prompts 8 and up, no synthetic samples")
    ] = False,
    demo: Annotated[bool, typer.Option(help="capture the embedded demo")] = True,
    synthetic: Annotated[int, typer.Option(min=0, help="how many synthetic samples")] = 1,
    captures: Annotated[Path, typer.Option(help="folder to keep captured samples in")] = Path("captures"),
) -> None:
    """Measure every policy on every sample at every density."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="radial: decay")
    captures.mkdir(parents=True, exist_ok=True)
    rows = [Row(**row) for row in read_table(out)]
    first = FIRST_HELD_OUT if held_out else 0
    numbers = range(first, first + prompts) if demo else range(0)
    for sample in samples(numbers, 0 if held_out else synthetic, captures):
        here = [row for row in rows if (row.kind, row.prompt, row.layer, row.step) == place_of(sample)]
        done = {(row.method, row.wanted) for row in here}
        wanted = ((name, density) for density in densities or DENSITIES for name in methods or METHODS)
        todo = [cell for cell in wanted if cell not in done]
        if todo:
            started = time.perf_counter()
            rows += measure_all(sample, todo)
            typer.echo(f"{sample.name}: {time.perf_counter() - started:.0f} s")
            write(out, rows)


def samples(prompts: range, synthetic: int, captures: Path) -> Iterator[Sample]:
    yield from demo_samples(prompts, LAYERS, STEPS, captures)
    for seed in range(synthetic):
        yield synthetic_sample(seed)


def place_of(sample: Sample) -> tuple[str, int, int, int]:
    return sample.kind, sample.prompt, sample.context.layer, sample.context.step or 0


@torch.no_grad()
def measure_all(sample: Sample, todo: list[tuple[str, float]]) -> Iterator[Row]:
    """The methods at their densities. The true mass of the oracles is computed once for all of them."""
    probes = Probes(sample.q, sample.k, sample.v, PROBE_STEPS[sample.kind])
    block, grid = BLOCKS[sample.kind], sample.context.grid
    assert grid is not None
    truth = None
    for name, density in todo:
        if name in ORACLES:
            truth = Exact().mass(sample.q, sample.k, block) if truth is None else truth
            layout = best_blocks(truth, shared(density, ORACLES[name]), sample, block)
            yield judged(sample, probes, name, density, layout, 1.0, None)
        else:
            yield measure(sample, probes, name, density, METHODS[name](density, block, grid))


def best_blocks(truth: Tensor, select: TopK, sample: Sample, block: BlockSize) -> BlockLayout:
    """The blocks of the greatest true mass, and the diagonal."""
    grid = sample.context.grid
    assert grid is not None
    must = Always().blocks(grid, RowMajor(), block, truth.device)[None, None]
    return BlockLayout.from_mask(select.keep(truth, must), block, grid.tokens, grid.tokens)


def measure(sample: Sample, probes: Probes, name: str, wanted: float, policy: Policy) -> Row:
    grid = sample.context.grid
    assert grid is not None
    started = time.perf_counter()
    layout = policy.layout(sample.q, sample.k, grid, sample.context)
    plan_ms = (time.perf_counter() - started) * 1e3
    return judged(sample, probes, name, wanted, layout, planning_cost(policy, grid), round(plan_ms, 1))


def judged(
    sample: Sample,
    probes: Probes,
    name: str,
    wanted: float,
    layout: BlockLayout,
    cost: float,
    ms: float | None,
) -> Row:
    recall, error = probes.judge(layout)
    return Row(*place_of(sample), name, wanted, layout.density.item(), recall, error, cost, ms)


def write(out: Path, rows: list[Row]) -> None:
    """Rows as lists under one list of columns: there are thousands."""
    machine = {"device": device_name("cpu"), "threads": 1, **versions()}
    settings = {"block_sizes": BLOCKS, "probe_steps": PROBE_STEPS}
    head = {"machine": machine, "settings": settings, "columns": [field.name for field in fields(Row)]}
    write_table(out, map(asdict, rows), head)


if __name__ == "__main__":
    typer.run(main)
