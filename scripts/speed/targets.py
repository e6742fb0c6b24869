"""What the kernels should reach on an H200, and whether measured rows reach it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from scripts.speed.problems import Problem

MAIN = "1,40,75600,128"
RAGGED = (MAIN, 0.2)
RAGGED_BAR = 0.95  # of the rate of equal lists
NARROW_BAR = 0.95  # of the rate at key blocks of 64, for key blocks of 32
EIGHT_BIT = ("int8",)  # tiers that meet no target by rounding more
Row = dict[str, Any]


class Target(NamedTuple):
    """The least rate at a shape and density: of the best tier, or of the one named."""

    shape: str
    density: float
    rate: float
    tier: str | None = None


TARGETS = [
    Target(MAIN, 1.0, 0.95),
    Target(MAIN, 0.5, 0.95),
    Target(MAIN, 0.25, 0.95),
    Target(MAIN, 0.1, 0.90),
    Target("1,24,118800,128", 0.25, 0.95),
    Target("1,12,32760,128", 0.25, 0.90),
    Target("1,24,32768,64", 0.25, 0.90),
    Target("1,32/8,131072,128,causal", 0.2, 0.85),
    Target(MAIN, 0.25, 0.80, "triton"),
]


def problems() -> list[Problem]:
    """The problems of all targets, the most informative first."""
    cases = dict.fromkeys((target.shape, target.density) for target in TARGETS)
    first = sorted(cases, key=lambda case: case != (MAIN, 0.25))
    ragged = [Problem(*RAGGED, block, ragged) for ragged in (False, True) for block in ("128x64", "128x128")]
    wide, narrow, small = (
        [Problem(*case, block) for case in first] for block in ("128x128", "128x32", "64x64")
    )
    return [*(Problem(*case, "128x64") for case in first), *wide, *ragged, *narrow, small[0]]


def held_against(target: Target, rows: list[Row], ours: list[str]) -> Row:
    """The target with the best rate on equal lists, key blocks of any length; None if not measured."""
    tiers = [target.tier] if target.tier else [tier for tier in ours if tier not in EIGHT_BIT]
    best = best_of(rows, tiers, target.shape, target.density)
    met = None if best is None else best["rate"] >= target.rate
    return {**target._asdict(), "best": best, "met": met}


def best_of(rows: list[Row], tiers: list[str], shape: str, density: float) -> Row | None:
    """The row with the best rate of some tiers on equal lists; None if not measured."""
    found = [row for row in rows if row["tier"] in tiers and _is(row, shape, density)]
    return max(found, key=lambda row: row["rate"], default=None)


def share_of(rows: list[Row], tier: str, over: Row, under: Row) -> float | None:
    """A tier's rate on rows with the values `over` as a share of that with `under`; none if not measured."""
    rates = [
        max((row["rate"] for row in rows if {**row, **values, "tier": tier} == row), default=None)
        for values in (over, under)
    ]
    return rates[0] / rates[1] if rates[0] is not None and rates[1] else None


def _is(row: Row, shape: str, density: float) -> bool:
    return row["shape"] == shape and not row["ragged"] and math.isclose(row["asked"], density)
