"""How much of another method's error a method saves, sample by sample: the budget's scope, the tail."""

from __future__ import annotations

import statistics

from scripts.page import markdown
from scripts.quality.rows import Record, densities, of, place

BASELINES = ("strided, row", "pooled, row")
SPREAD = "Smallest / median / largest saving over the samples; in brackets, how many have a larger error:"
BY_ERROR = "tenth, tail, by error"


def budget_table(rows: list[Record]) -> str:
    """Error saved by a layer-wide budget, sample by sample, at density .4; then by density."""
    steps = sorted({row["step"] for row in rows})
    lines = []
    for prompt, layer in sorted({(row["prompt"], row["layer"]) for row in rows}):
        cells = [str(prompt), str(layer)]
        for baseline in BASELINES:
            for step in steps:
                here = of(rows, prompt=prompt, layer=layer, step=step, wanted=0.4)
                cells.append(f"{saved(here, 'default', baseline):.0%}")
        lines.append(cells)
    header = [f"against {name}: step {step}" for name in BASELINES for step in steps]
    wanted = densities(rows)
    names = [(ours, theirs) for ours in ("default", "tenth") for theirs in BASELINES]
    summary = [[f"{ours} against {theirs}", *spread(rows, ours, theirs)] for ours, theirs in names]
    return f"{markdown(['prompt', 'layer', *header], lines)}\n\n{SPREAD}\n\n" + markdown(
        ["at density", *(f"{density:g}" for density in wanted)], summary
    )


def saved(rows: list[Record], name: str, baseline: str) -> float:
    """1 - error / error of the baseline, of one sample at one density."""
    (ours,), (theirs,) = of(rows, method=name), of(rows, method=baseline)
    return 1 - ours["error"] / theirs["error"]


def spread(rows: list[Record], name: str, baseline: str) -> list[str]:
    """Smallest, median and largest saving over the samples, and how often it is negative; by density."""
    parts = []
    for wanted in densities(rows):
        at = of(rows, wanted=wanted)
        savings = [
            saved([row for row in at if place(row) == sample], name, baseline)
            for sample in dict.fromkeys(place(row) for row in at)
        ]
        worse = sum(saving < 0 for saving in savings)
        figures = " / ".join(f"{x:.0%}" for x in (min(savings), statistics.median(savings), max(savings)))
        parts.append(f"{figures} ({worse} of {len(savings)})")
    return parts


def tail_table(rows: list[Record], kinds: list[str]) -> str:
    """What the tail saves at equal listed density, and at equal work."""
    lines = []
    for kind in kinds:
        for name in ("tenth", "pooled, row"):
            for suffix, words in ((", tail", "equal density"), (", tail, equal work", "equal work")):
                savings = spread(of(rows, kind=kind), name + suffix, name)
                lines.append([f"{kind}: {name}, tail against no tail, {words}", *savings])
        if of(rows, kind=kind, method=BY_ERROR):
            savings = spread(of(rows, kind=kind), BY_ERROR, "tenth, tail")
            lines.append([f"{kind}: tenth, tail, ranked by error against ranked by mass", *savings])
    header = ["at density", *(f"{density:g}" for density in densities(rows))]
    return f"{SPREAD}\n\n{markdown(header, lines)}"
