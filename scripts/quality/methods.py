"""The methods that the benchmarks compare, by name: each one a policy of a density and a block size."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed
from accel.policies.draft import Draft
from accel.policies.hip import Hip
from accel.policies.parts.grid_blocks import block_counts
from accel.policies.parts.scores import Antidiagonal, Exact, Pooled, Score, Strided, SubBlock
from accel.policies.parts.selectors import Budget, TopK
from accel.policies.permuted import Permuted
from accel.policies.policy import Policy
from accel.policies.radial import Radial

BlockSize = tuple[int, int]
# Rows and columns of draft's regions, by the queries of a block: short runs, and squares of about its size
# as published, which blur more.
RUNS = {32: (1, 8), 64: (1, 8), 128: (2, 16)}
SQUARES = {32: (4, 8), 64: (8, 8), 128: (8, 16)}
Build = Callable[[float, BlockSize, TokenGrid], Policy]


@dataclass(frozen=True)
class Chance(Policy):
    """The diagonal and random blocks, the same number in every row, different ones in every call."""

    density: float
    block_size: BlockSize
    method: str = "random"

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        seed = ((context.step or 0) * 64 + context.layer) * 2 + context.branch
        rows, columns = (-(-q.shape[2] // size) for size in self.block_size)
        mass = torch.rand(1, q.shape[1], rows, columns, generator=torch.Generator().manual_seed(seed))
        places = torch.arange(columns) * self.block_size[1] // self.block_size[0]
        must = (places == torch.arange(rows)[:, None])[None, None]
        keep = TopK(self.density).keep(mass, must).to(q.device)
        return BlockLayout.from_mask(keep, self.block_size, q.shape[2], k.shape[2])


# What every row gets at least of a budget that it shares with others.
ROW_DENSITY = 0.1


def shared(density: float, budget: Budget) -> TopK:
    return TopK(density, budget, min(density, ROW_DENSITY))


def composed(score: Score, budget: Budget, tail: bool = False) -> Build:
    return lambda density, block, grid: Composed(
        score=score, select=shared(density, budget), tail=tail, block_size=block
    )


def default(score: Score, tail: bool = False) -> Build:
    """As in the recipes: half of a layer's budget is split evenly over the rows."""
    return lambda density, block, grid: Composed(
        score=score, select=TopK(density, "layer", density / 2), tail=tail, block_size=block
    )


def radial(density: float, block: BlockSize, grid: TokenGrid) -> Radial:
    """The radial mask whose density is closest; radial can reach few densities."""
    decays = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
    every = [
        Radial(decay=decay, rule=rule, block_size=block) for rule in ("wan", "hunyuan") for decay in decays
    ]
    return min(every, key=lambda policy: abs(density_of(policy, grid) - density))


def density_of(policy: Policy, grid: TokenGrid) -> float:
    """Of a static policy."""
    tokens = torch.empty(1, 1, grid.tokens, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return policy.layout(tokens, tokens, grid, Context()).density.item()


def draft(regions: dict[int, tuple[int, int]]) -> Build:
    return lambda density, block, grid: Draft(density=density, region=regions[block[0]], block_size=block)


def hip(density: float, block: BlockSize, grid: TokenGrid) -> Hip:
    """Hip keeps the diagonal in addition to what it finds, so less is asked for: all keep the same."""
    columns = block_counts(grid, block)[1]
    diagonal = max(1, block[0] // block[1])
    return Hip(density=max(1, round(density * columns) - diagonal) / columns, block_size=block)


def less(build: Build, work: Callable[[BlockSize], float]) -> Build:
    """The same with less density, to make up for other work, as a share of dense attention's."""
    return lambda density, block, grid: build(density - work(block), block, grid)


def tail_work(block: BlockSize) -> float:
    """One more key for every block of keys."""
    return 1 / block[1]


METHODS: dict[str, Build] = {
    "random": lambda density, block, grid: Chance(density, block),
    "radial": radial,
    "draft": draft(RUNS),
    "draft, squares": draft(SQUARES),
    "permuted": lambda density, block, grid: Permuted(select=TopK(density), block_size=block),
    "permuted, layer": lambda density, block, grid: Permuted(
        score=Antidiagonal(8), select=shared(density, "layer"), block_size=block
    ),
    "hip": hip,
    "pooled, row": composed(Pooled(), "row"),
    "pooled, row, tail": composed(Pooled(), "row", tail=True),
    "pooled, row, tail, equal work": less(composed(Pooled(), "row", tail=True), tail_work),
    "xattention": composed(Antidiagonal(16), "row"),
    "strided, row": composed(Strided(8, 8), "row"),
    "default": default(Strided(8, 8)),
    "default, 8x4": default(Strided(8, 4)),
    "tenth": composed(Strided(8, 8), "layer"),
    "tenth, means": composed(SubBlock(8, 8), "layer"),
    "tenth, tail": composed(Strided(8, 8), "layer", tail=True),
    "tenth, tail, equal work": less(composed(Strided(8, 8), "layer", tail=True), tail_work),
    "oracle, row": composed(Exact(), "row"),
    "oracle, layer": composed(Exact(), "layer"),
}
