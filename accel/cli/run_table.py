"""The table a run ends with: seconds, ratios, density and dense reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from accel.apply.summary import Summary, summarize
from accel.run.generate import Generated

PARTS = {"attention": "attention only", "transformer": "transformer", "total": "end to end"}


def print_runs(runs: Mapping[str, Generated]) -> None:
    """Print what the runs took; with both of them, how much faster the accelerated one was."""
    console = Console()
    table = Table(title="seconds")
    table.add_column("")
    for name in runs:
        table.add_column(name, justify="right")
    ratios = speedups(runs)
    if ratios:
        table.add_column("times faster", justify="right")
    for part, label in PARTS.items():
        cells = [f"{getattr(run.seconds, part):.2f}" for run in runs.values()]
        table.add_row(label, *cells, *([f"{ratios[part]:.2f}"] if ratios else []))
    console.print(table)
    if "accelerated" in runs:
        for line in account(summarize([runs["accelerated"].patch])):
            console.print(line, highlight=False, soft_wrap=True)


def account(summary: Summary) -> list[str]:
    """Density and dense reasons of an accelerated run, in sentences."""
    lines = []
    if summary.density is not None:
        sparse = summary.sparse_density
        alone = f", {sparse:.3f} in the sparse calls alone" if sparse is not None else ""
        lines.append(f"density {summary.density:.3f}{alone} (blocks executed, as a share of dense)")
    lines += [
        f"dense: {count} of {summary.calls} calls, {why}" for why, count in summary.dense_reasons.items()
    ]
    return lines


def speedups(runs: Mapping[str, Generated]) -> dict[str, float]:
    """Dense over accelerated seconds of each part; empty unless both ran."""
    if not {"dense", "accelerated"} <= set(runs):
        return {}
    dense, fast = runs["dense"].seconds, runs["accelerated"].seconds
    return {part: getattr(dense, part) / getattr(fast, part) for part in PARTS}


def runs_as_dict(runs: Mapping[str, Generated]) -> dict[str, Any]:
    """The same as plain data."""
    data: dict[str, Any] = {"seconds": {name: asdict(run.seconds) for name, run in runs.items()}}
    if ratios := speedups(runs):
        data["times_faster"] = ratios
    if "accelerated" in runs:
        data["summary"] = summarize([runs["accelerated"].patch]).to_dict()
    return data
