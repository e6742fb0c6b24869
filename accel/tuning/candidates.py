"""Candidates: the families of recipes that tuning chooses from; each leaves its density open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from accel.kernels.layout.layout import KEY_ROWS, QUERY_ROWS
from accel.mistake import Mistake
from accel.patches.context import Context
from accel.recipe.files import build_recipe
from accel.recipe.recipe import Recipe
from accel.recipe.schedule import Schedule

ROW_DENSITY = 0.05
SUB_BLOCK = 16
LEAST, MOST = 0.08, 0.95


@dataclass(frozen=True)
class Candidate:
    """One family.

    Args:
        block_size: (query rows, key rows).
        residual: whether residuals compensate.
        by_layer: whether layers differ in density.
        dense_steps: share of the schedule that runs dense first.
        dense_every: share of the schedule after which a residual is captured again.
        score: what ranks the blocks.
        shared: layers, from the first, that both passes of guidance share: dense, for half of the work.

    Raises:
        Mistake: if no kernel has blocks of that size.
    """

    block_size: tuple[int, int]
    residual: bool = True
    by_layer: bool = True
    dense_steps: float = 0.25
    dense_every: float = 0.35
    score: str = "strided"
    shared: int = 0

    def __post_init__(self) -> None:
        rows, columns = self.block_size
        if rows not in QUERY_ROWS or columns not in KEY_ROWS:
            sizes = " or ".join(map(str, QUERY_ROWS)), " or ".join(map(str, KEY_ROWS))
            raise Mistake(
                f"block size {rows}x{columns}: query rows are {sizes[0]}, key rows {sizes[1]}, such as 128x64"
            )

    @property
    def name(self) -> str:
        """Its name: how it differs from the plainest."""
        rows, columns = self.block_size
        parts = ["by layer" if self.by_layer else "even", f"blocks of {rows}x{columns}"]
        parts += [f"residual every {self.dense_every:g}"] if self.residual else []
        parts += [] if self.score == "strided" else [self.score]
        return f"{', '.join(parts)}, {self.dense_steps:g} dense first"

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.dense_steps, dense_every=self.dense_every if self.residual else 0.0)

    def density_at(self, work: float, n_steps: int, n_layers: int) -> float:
        """The mean density of its layers at which it does that much work, or the nearest possible.

        Args:
            work: executed blocks / dense attention's over the whole schedule.
        """
        dense = sum(
            self.schedule.dense_step(Context(None, step, n_steps)) is not None for step in range(n_steps)
        )
        open_layers = (n_layers - self.shared) / n_layers
        sparse = (1 - dense / n_steps) * open_layers
        # A shared layer is computed in one pass of two.
        fixed = 1 - sparse - self.shared / n_layers / 2
        return min(max((work - fixed) / sparse, LEAST), MOST) if sparse else MOST

    def recipe(self, density: float, layers: Sequence[float] = (), n_layers: int = 0) -> Recipe:
        """The recipe at a mean density, with the densities of the layers if there are any."""
        return build_recipe(self.data(density, layers, n_layers), "tune")

    def data(self, density: float, layers: Sequence[float] = (), n_layers: int = 0) -> dict[str, Any]:
        """The same as a YAML file would hold it.

        Args:
            density: of the layers that are not shared, their mean.
            layers: the density of every layer, shared ones included.
            n_layers: of the model; needed where layers are shared.
        """
        table = [round(value, 3) for value in layers] if self.by_layer else []
        lowest = min([round(density, 3), *table])
        select: dict[str, Any] = {
            "kind": "top_k",
            "density": round(density, 3),
            "budget": "layer",
            "row_density": min(ROW_DENSITY, lowest),
        }
        if table:
            select["layer_density"] = table
        step = 8 if self.score == "strided" else SUB_BLOCK
        policy = {
            "method": "compose",
            "score": {"kind": self.score, "query": step, "key": step},
            "select": select,
            "block_size": list(self.block_size),
        }
        schedule: dict[str, Any] = {"dense_steps": self.dense_steps}
        data: dict[str, Any] = {"description": "tuned", "schedule": schedule, "reuse": {"branches": True}}
        if self.shared:
            schedule["dense_layers"] = round((self.shared - 0.5) / n_layers, 4)
        if self.residual:
            schedule["dense_every"] = self.dense_every
            data["compensate"] = {"kind": "residual"}
        return data | {"rules": [{"match": "*", "policy": policy}]}


def candidates(block_sizes: Sequence[tuple[int, int]], steps: int | None = None) -> tuple[Candidate, ...]:
    """What is tried: a centre, and what differs from it in one thing.

    Raises:
        Mistake: if there is no block size, or one step, which runs dense.
    """
    if steps == 1:
        raise Mistake(
            "steps is 1: every recipe that is tried runs the first step dense; tune needs 2 or more"
        )
    if not block_sizes:
        raise Mistake("block_sizes is empty: at least one is needed, such as (128, 64)")
    centre = Candidate(block_sizes[0])
    return (
        centre,
        *(replace(centre, block_size=size) for size in block_sizes[1:]),
        replace(centre, by_layer=False),
        replace(centre, residual=False),
        replace(centre, dense_every=0.2),
        replace(centre, dense_steps=0.12),
        replace(centre, dense_steps=0.37),
        replace(centre, score="sub_block"),
    )


def combined(centre: Candidate, better: Sequence[Candidate]) -> Candidate:
    """The centre with everything in which the better ones differ from it; the first has priority."""
    changes: dict[str, Any] = {}
    for other in better:
        for name, value in vars(other).items():
            if value != getattr(centre, name):
                changes.setdefault(name, value)
    return replace(centre, **changes)
