"""A Report as plain values for JSON: all its numbers, but not its videos."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from accel.comparison.report import Report, Run
from accel.comparison.words import verdict


def report_as_dict(report: Report) -> dict[str, Any]:
    """Everything measured, JSON-safe: unknown is null, a dense cell "dense", an infinite PSNR null."""
    return {
        "title": report.title,
        "prompt": report.prompt,
        "model": report.model,
        "recipe": {"name": report.recipe_name, "text": report.recipe_text},
        "runs": {"dense": _run(report.dense), "accelerated": _run(report.accelerated)},
        "speedup": {part: report.speedup(part) for part in ("total", "transformer", "attention")},
        "density": {"with_dense_as_1": report.density(), "where_sparse": report.density(with_dense=False)},
        "quality": {
            each.role: {
                "label": each.label,
                "explanation": each.explanation,
                **each.quality.as_dict(),
                "latent_relative_error": each.latent_relative_error,
            }
            for each in report.comparisons
        },
        "anchors": [asdict(anchor) for anchor in report.anchors],
        "verdict": verdict(report),
        "density_by_layer_and_step": [
            [_cell(value) for value in row] for row in report.density_by_layer_and_step
        ],
        "layer_names": list(report.layer_names),
        "calls": {"sparse": report.sparse_calls, "dense": dict(report.dense_reasons)},
        "versions": dict(report.versions),
        "settings": dict(report.settings),
        "command": report.command,
    }


def _run(run: Run) -> dict[str, Any]:
    facts = asdict(run)
    video = facts.pop("video_path")
    return {**facts, "video": None if video is None else str(video)}


def _cell(density: float | None) -> float | str | None:
    if density is None:
        return "dense"
    return None if math.isnan(density) else density
