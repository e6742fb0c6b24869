"""Write the tables and the plot of the policy benchmarks from their JSON files.

python -m scripts.quality.tables docs/benchmarks
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import typer

from scripts.line_plot import Panel, line_plot
from scripts.page import markdown
from scripts.quality.rows import Record, densities, mean, median, of
from scripts.quality.savings import budget_table, tail_table
from scripts.row_file import read_table

TITLES = {
    "demo": "Embedded demo, 9x24x24 tokens, blocks of 64 x 64",
    "synthetic": "Synthetic, 21x30x52 tokens, blocks of 128 x 64",
}
PLOTTED = (
    *("random", "radial", "draft", "hip", "permuted", "pooled, row", "default"),
    *("oracle, row", "oracle, layer"),
)
ORACLES = ("oracle, row", "oracle, layer")
FIGURES = (("ssim", ".3f"), ("latent_error", ".3f"), ("psnr", ".1f"))

HEAD = """\
# Tables of the policy benchmarks

Measured with the recipes of 2026-11-21. [policies.md](policies.md) says what was found, what the names mean
and what has changed since. In single calls, one budget per layer comes closest to the oracles; the ranking of
methods over whole videos does not carry over to held-out prompts.

Written by `scripts/quality/tables.py`. Figures for calls are medians over samples, with the largest in
brackets."""
CHOICE = """
## The choice, at density 0.3

Recall: the share of the attention mass that falls on executed blocks. Cost: multiply-adds of the choice /
those of QKᵀ. CPU ms: measured on one core of a busy machine, so not reliable.
"""
BUDGET = """
## What a budget for the whole layer saves

The share of the output error that `default` saves at density 0.4, for every call on the demo.
"""
TAIL = """
## What the tail saves
"""
VIDEOS = """
## End to end on the demo

Means over pairs of a prompt and a seed, with every pair in brackets; PSNR in dB, relative latent error.
"""
HELD_OUT = """
# Held out

The same tables for prompts and seeds from 8 on, which played no part in choosing settings: single calls, then
videos.
"""


def main(folder: Annotated[Path, typer.Argument(help="Where the JSON files are and the tables go.")]) -> None:
    """Read policies*.json, write policies-tables.md and policies.svg."""
    rows, videos = read_table(folder / "policies.json"), read_table(folder / "policies-end-to-end.json")
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    parts = [HEAD]
    for kind in kinds:
        parts += [f"\n## Relative output error: {TITLES[kind]}\n", error_table(of(rows, kind=kind))]
    parts += [CHOICE, choice_table(rows, kinds), BUDGET, budget_table(of(rows, kind="demo"))]
    parts += [TAIL, tail_table(rows, kinds), VIDEOS, end_to_end_table(videos)]
    calls, pairs = (read_table(folder / f"policies-held-out{part}.json") for part in ("", "-end-to-end"))
    tables = error_table(calls), budget_table(calls), tail_table(calls, ["demo"]), end_to_end_table(pairs)
    parts += [HELD_OUT, "\n\n".join(tables), ""]
    (folder / "policies-tables.md").write_text("\n".join(parts))
    panels = [Panel(TITLES[kind], lines(of(rows, kind=kind))) for kind in kinds]
    plot = line_plot(panels, "density (executed blocks / all blocks)", "relative output error", ORACLES)
    (folder / "policies.svg").write_text(plot)


def lines(rows: list[Record]) -> dict[str, list[tuple[float, float]]]:
    """Median error by median density, of every method that is plotted."""
    out: dict[str, list[tuple[float, float]]] = {}
    for name in PLOTTED:
        groups = [of(rows, method=name, wanted=wanted) for wanted in densities(rows)]
        out[name] = sorted({(round(median(g, "density"), 3), median(g, "error")) for g in groups if g})
    return {name: line for name, line in out.items() if line}


def error_table(rows: list[Record]) -> str:
    """Median and largest error, one line a method, best at density .4 first."""
    wanted = densities(rows)

    def cell(name: str, density: float) -> str:
        group = of(rows, method=name, wanted=density)
        text = f"{median(group, 'error'):.3f} ({max(row['error'] for row in group):.3f})"
        return f"{text} at {median(group, 'density'):.2f}" if name == "radial" else text

    names = sorted(
        dict.fromkeys(row["method"] for row in rows),
        key=lambda name: median(of(rows, method=name, wanted=0.4), "error"),
    )
    lines = [[name, *(cell(name, density) for density in wanted)] for name in names]
    return markdown(["method", *(f"{density:g}" for density in wanted)], lines)


def choice_table(rows: list[Record], kinds: list[str]) -> str:
    """Recall, cost and time of the choice at density .3."""
    lines = []
    for name in dict.fromkeys(row["method"] for row in rows):
        cells = [name]
        for kind in kinds:
            group = of(rows, kind=kind, method=name, wanted=0.3)
            times = [row["plan_ms"] for row in group if row["plan_ms"] is not None]
            cells += [f"{median(group, 'recall'):.3f}", f"{median(group, 'cost'):.2%}"]
            cells.append(f"{statistics.median(times):.0f}" if times else "-")
        lines.append(cells)
    header = [f"{kind}: {field}" for kind in kinds for field in ("recall", "cost", "CPU ms")]
    return markdown(["method", *header], lines)


def end_to_end_table(rows: list[Record]) -> str:
    """Means over pairs, one line a method, density and size, best SSIM first."""
    lines = []
    for size, wanted in sorted({(row["size"], row["wanted"]) for row in rows}, reverse=True):
        here = of(rows, size=size, wanted=wanted)
        groups = [of(here, method=name) for name in dict.fromkeys(row["method"] for row in here)]
        for group in sorted(groups, key=lambda group: -mean(group, "ssim")):
            pairs = " ".join(str(row["prompt"]) for row in group)
            cells = [f"{size}", group[0]["method"], f"{mean(group, 'density'):.3f}", pairs]
            lines.append(cells + [each(group, *figure) for figure in FIGURES])
    return markdown(["pixels", "method", "density", "pairs", *(name for name, _ in FIGURES)], lines)


def each(group: list[Record], field: str, digits: str) -> str:
    """The mean, and every pair's where there are several."""
    text = format(mean(group, field), digits)
    single = " ".join(format(row[field], digits) for row in group)
    return f"{text} ({single})" if len(group) > 1 else text


if __name__ == "__main__":
    typer.run(main)
