"""DensityMap: density by layer and denoising step as the cells of a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from accel.comparison.drawing.axis import round_step
from accel.comparison.drawing.charts import LEFT, RIGHT, WIDTH

TOP = 10
TALLEST = 420


@dataclass(frozen=True)
class Cell:
    """One layer in one step. `kind` is "sparse", "dense" or "no call"; `shade` is in (0, 1]."""

    x: float
    y: float
    kind: str
    shade: float
    says: str


@dataclass(frozen=True)
class DensityMap:
    """Cells, the labels along both sides, and the densities of the colour scale."""

    cells: tuple[Cell, ...]
    cell_width: float
    cell_height: float
    steps: tuple[tuple[float, str], ...]
    layers: tuple[tuple[float, str], ...]
    scale: tuple[tuple[float, str], ...]
    kinds: frozenset[str]
    bottom: float
    width: int = WIDTH
    left: float = LEFT
    right: float = RIGHT


def density_map(rows: Sequence[Sequence[float | None]], layer_names: Sequence[str] = ()) -> DensityMap | None:
    """A heat map of [layers][steps]: None for a dense step, NaN without a call. Returns None without rows."""
    if not rows:
        return None
    columns = len(rows[0])
    width, height = (RIGHT - LEFT) / columns, min(26.0, max(5.0, TALLEST / len(rows)))
    top = _scale_top(rows)
    cells = tuple(
        Cell(
            round(LEFT + step * width, 2),
            round(TOP + layer * height, 2),
            *_look(value, top),
            _sentence(layer_names[layer] if layer_names else f"layer {layer}", step, value),
        )
        for layer, row in enumerate(rows)
        for step, value in enumerate(row)
    )
    return DensityMap(
        cells=cells,
        cell_width=round(width, 2),
        cell_height=round(height, 2),
        steps=tuple((LEFT + (step - 0.5) * width, str(step)) for step in _labelled(1, columns, 10)),
        layers=tuple((TOP + (layer + 0.5) * height, str(layer)) for layer in _labelled(0, len(rows) - 1, 12)),
        scale=tuple((_shade(top * part / 5, top), f"{top * part / 5:.2g}") for part in range(1, 6)),
        kinds=frozenset(cell.kind for cell in cells),
        bottom=round(TOP + len(rows) * height, 2),
    )


def _scale_top(rows: Sequence[Sequence[float | None]]) -> float:
    """The round density at the dark end of the colours."""
    sparse = [value for row in rows for value in row if value is not None and not math.isnan(value)]
    highest = max(sparse, default=1.0)
    step = round_step(highest, 5)
    return min(1.0, math.ceil(highest / step - 1e-9) * step)


def _look(value: float | None, top: float) -> tuple[str, float]:
    if value is None:
        return "dense", 1.0
    return ("no call", 1.0) if math.isnan(value) else ("sparse", _shade(value, top))


def _shade(value: float, top: float) -> float:
    return round(0.1 + 0.9 * min(1.0, value / top), 3)


def _sentence(layer: str, step: int, value: float | None) -> str:
    if value is None:
        return f"{layer}, step {step + 1}: dense"
    return f"{layer}, step {step + 1}: " + ("no call" if math.isnan(value) else f"density {value:.3f}")


def _labelled(first: int, last: int, most: int) -> list[int]:
    """`first` and the multiples of a round step up to `last`, about `most` of them."""
    step = max(1, math.ceil(round_step(max(last - first, 1), most)))
    return sorted({first, *range(step * (first // step + 1), last + 1, step)})
