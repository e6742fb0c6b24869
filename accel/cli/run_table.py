"""The table a run ends with: seconds, ratios, density and dense reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from accel.apply.summary import summarize
from accel.cli.terminal import print_table, say
from accel.run.generate import Generated

PARTS = {"attention": "attention only", "transformer": "transformer", "total": "end to end"}


def print_runs(runs: Mapping[str, Generated]) -> None:
    """Print what the runs took; with both of them, how much faster the accelerated one was."""
    ratios = speedups(runs)
    rows = [
        (
            label,
            *(f"{getattr(run.seconds, part):.2f}" for run in runs.values()),
            *([f"{ratios[part]:.2f}"] if ratios else []),
        )
        for part, label in PARTS.items()
    ]
    print_table(("", *runs, *(["times faster"] if ratios else [])), rows, "seconds")
    if "accelerated" in runs:
        for line in summarize([runs["accelerated"].patch]).account:
            say(line)


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
