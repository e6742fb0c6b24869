"""Candidates: the families of recipes that tuning chooses from; each leaves its density open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accel.recipe.files import build_recipe
from accel.recipe.recipe import Recipe

ROW_DENSITY = 0.05


@dataclass(frozen=True)
class Candidate:
    """One family.

    Args:
        name: for people.
        block_size: (query rows, key rows).
        residual: whether residuals compensate.
        by_layer: whether layers differ in density.
        dense_steps: share of the schedule that runs dense first.
    """

    name: str
    block_size: tuple[int, int]
    residual: bool = False
    by_layer: bool = True
    dense_steps: float = 0.25

    def recipe(self, density: float, layers: tuple[float, ...] = (), description: str = "tuned") -> Recipe:
        """The recipe at a mean density, with the densities of the layers if there are any."""
        return build_recipe(self.data(density, layers, description), "tune")

    def data(
        self, density: float, layers: tuple[float, ...] = (), description: str = "tuned"
    ) -> dict[str, Any]:
        """The same as a YAML file would hold it."""
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
        policy = {
            "method": "compose",
            "score": {"kind": "strided", "query": 8, "key": 8},
            "select": select,
            "block_size": list(self.block_size),
        }
        data: dict[str, Any] = {"description": description, "schedule": {"dense_steps": self.dense_steps}}
        data["reuse"] = {"branches": True}
        if self.residual:
            data["schedule"]["dense_every"] = 0.2
            data["compensate"] = {"kind": "residual"}
        return data | {"rules": [{"match": "*", "policy": policy}]}


def candidates(block_sizes: tuple[tuple[int, int], ...]) -> tuple[Candidate, ...]:
    """Everything that is tried, the plainest first."""
    found = []
    for rows, columns in block_sizes:
        where = f"blocks of {rows}x{columns}"
        found += [
            Candidate(f"even, {where}", (rows, columns), by_layer=False),
            Candidate(f"by layer, {where}", (rows, columns)),
            Candidate(f"by layer with a residual, {where}", (rows, columns), residual=True),
        ]
    return tuple(found)
