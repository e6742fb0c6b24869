"""Comparison runs: dense, accelerated, and those its numbers are compared with, measured on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from accel.apply.patch import Patch
from accel.comparison.anchors import BACKEND, MP4, SEED, Anchor, as_usual_mp4, completed
from accel.comparison.quality import measure_quality, relative_error
from accel.comparison.report import Comparison
from accel.comparison.worst import Worst, find_worst
from accel.recipe.recipe import DENSE, Recipe, dense_like
from accel.run.arms import Arm, run_arms, warm_up
from accel.run.generate import Generated, Seconds
from accel.run.settings import GenerateSettings
from accel.run.watcher import Watcher

ANCHORS = {"noise floor": BACKEND, "other seed": SEED}
MOST_SEED = 2**63 - 1
EXPLANATIONS = {
    "accelerated": "The same prompt and seed, accelerated.",
    "noise floor": "Dense again under another exact attention backend: the best any method can hope for.",
    "other seed": "Dense from other noise: the score of two unrelated videos.",
}


@dataclass(frozen=True)
class Compared:
    """The runs of one comparison and what they say about each other."""

    dense: Generated
    accelerated: Generated
    comparisons: tuple[Comparison, ...]
    anchors: tuple[Anchor, ...] = ()
    worst: Worst | None = None


def compare_runs(
    pipe: Any,
    settings: GenerateSettings,
    recipe: Recipe,
    *,
    placing: bool = True,
    floor: bool = False,
    watcher: Watcher | None = None,
) -> Compared:
    """Run dense and accelerated from the same seed; with `placing` another seed as well, with `floor` dense
    under another exact backend, which may be much slower.
    """
    other = settings.seed + 1 if settings.seed < MOST_SEED else 0
    dense_arm, fast = Arm(settings, dense_like(recipe)), Arm(settings, recipe)
    arms = {**warm_up(fast), "dense": dense_arm, "accelerated": fast}
    if floor:
        arms["noise floor"] = Arm(settings, DENSE, partial(other_exact_backend, pipe.device.type))
    if placing:
        arms["other seed"] = replace(dense_arm, settings=settings.model_copy(update={"seed": other}))
    runs = run_arms(pipe, arms, watcher or Watcher())
    dense = runs.pop("dense")
    if "other seed" in runs:
        # The same work before and after the accelerated run: a machine that slowly gets slower is no gain.
        dense = replace(dense, seconds=mean_seconds(dense.seconds, runs["other seed"].seconds))
    comparisons = tuple(compared_with(role, run, dense) for role, run in runs.items())
    accelerated = runs["accelerated"]
    return Compared(
        dense,
        accelerated,
        comparisons,
        anchors_of(comparisons, dense),
        find_worst(accelerated.frames, dense.frames, comparisons[0].quality),
    )


def mean_seconds(*runs: Seconds) -> Seconds:
    """Part by part."""
    return Seconds(*map(fmean, zip(*map(astuple, runs), strict=True)))


def anchors_of(comparisons: Sequence[Comparison], dense: Generated) -> tuple[Anchor, ...]:
    """The changes that these runs measured, and the demo's figures for the others. Images have no mp4."""
    found = [
        Anchor(ANCHORS[each.role], each.quality.ssim, each.latent_relative_error)
        for each in comparisons
        if each.role in ANCHORS
    ]
    if len(dense.frames) > 1:
        found.append(Anchor(MP4, measure_quality(as_usual_mp4(dense.frames), dense.frames).ssim))
    return completed(found)


def other_exact_backend(device: str) -> Any:
    """Make diffusers' dispatcher use an exact backend that is not the one it would have used."""
    from diffusers.models.attention_dispatch import attention_backend

    return attention_backend("_native_efficient" if device == "cuda" else "_native_math")


def compared_with(role: str, run: Generated, dense: Generated) -> Comparison:
    """A run against the dense one."""
    error = None
    if run.latents is not None and dense.latents is not None:
        error = relative_error(run.latents, dense.latents)
    quality = measure_quality(run.frames, dense.frames)
    return Comparison(role, f"{role} against dense", quality, EXPLANATIONS[role], error)


def density_map(patch: Patch) -> tuple[tuple[float | None, ...], ...]:
    """Rows of layers, columns of steps: density of the sparse calls, None where all ran dense, NaN without
    calls; empty if the steps are not known."""
    records = [one.attention.record for one in patch.installed]
    parts = {part for record in records for part in (*record.sparse, *record.dense_steps)}
    steps = [part for part in parts if isinstance(part, int)]
    if not steps or len(steps) < len(parts):
        return ()
    n_steps = max(steps) + 1
    return tuple(tuple(_cell(record, step) for step in range(n_steps)) for record in records)


def _cell(record: Any, step: int) -> float | None:
    if step in record.sparse:
        return float(record.sparse[step].total) / record.sparse[step].count
    return None if record.dense_steps[step] else math.nan
