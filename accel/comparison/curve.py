"""Curve: speed and quality of the recipes that tuning tried, stored next to the one it chose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accel.files import write_whole

NAME = "curve.json"


@dataclass(frozen=True)
class Tried:
    """A recipe that was tried, and its means over prompts.

    Args:
        speedup: dense / accelerated seconds of the transformers' forwards.
        chosen: it is the one that tuning ended with.
        name: what people call it.
    """

    density: float
    speedup: float
    latent_error: float | None
    ssim: float | None
    chosen: bool = False
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"density {self.density:.3f}"


def write_curve(points: Sequence[Tried], folder: Path) -> Path:
    """Keep a curve in the folder of its recipe."""
    return write_whole(folder / NAME, json.dumps([asdict(point) for point in points], indent=1))


def curve_of(recipe: str) -> tuple[Tried, ...]:
    """The curve stored next to a recipe's file; empty for shipped recipes, and if it cannot be read."""
    path = Path(recipe).with_name(NAME) if recipe.endswith(".yaml") else None
    if path is None or not path.is_file():
        return ()
    try:
        return tuple(Tried(**point) for point in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return ()
