"""Heat: the map of errors by layer, head and step as rows of cells, and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from accel.tuning.profile import Profile


@dataclass(frozen=True)
class HeatRow:
    """One layer. Each cell is a head at a step: its error, and that as a share of the largest of all."""

    site: str
    cells: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class HeatMap:
    """Rows of layers, the worst first; columns are steps, and in each the heads."""

    steps: tuple[int, ...]
    heads: int
    rows: tuple[HeatRow, ...]


def heat_map(profile: Profile, density: float = 0.3) -> HeatMap:
    """The map of a profile at a density."""
    errors = profile.map(density)
    most = max(float(errors.max()), 1e-12)
    order = errors.square().sum(dim=(1, 2)).argsort(descending=True).tolist()
    rows = tuple(
        HeatRow(
            profile.sites[layer], tuple((error, error / most) for error in errors[layer].flatten().tolist())
        )
        for layer in order
    )
    return HeatMap(profile.steps, errors.shape[2], rows)


def lines(profile: Profile, density: float = 0.3, count: int = 12) -> Iterator[str]:
    """Where it hurts, worst first, for a terminal."""
    yield f"where it hurts, at density {density:g}: error as a share of the layer's output, worst first"
    for place in profile.worst(density, count):
        yield f"         {place.error:.4f}  {place.site}, head {place.head}, step {place.step + 1}"
