"""Tuning: the fastest recipe that meets a target on the user's own model, size, steps and machine.

Dense once a prompt. One of those runs says how the layers share a budget (`profile`). The families of recipes
are ranked by the forced error at one density. Of the best one the density is bisected by whole generations,
and what comes out is checked on prompts kept aside; if it falls short there it is corrected, and says so.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.machine.versions import device_name
from accel.mistake import Mistake
from accel.recipe.recipe import Recipe
from accel.run.settings import GenerateSettings
from accel.tuning.candidates import Candidate, candidates
from accel.tuning.profile import Place, allocate, profile
from accel.tuning.subject import Outcome, Progress, Subject
from accel.tuning.target import Target

RANKED_AT = 0.3
LEAST, MOST = 0.08, 0.95
ROUNDS = 5
CORRECTIONS = 3
CLOSE = 0.05
SLACK = 0.1


class Unreachable(Mistake):
    """No recipe met the target; `best` is the one that came closest.

    Args:
        best: what was found all the same.
    """

    def __init__(self, text: str, best: Point) -> None:
        super().__init__(text)
        self.best = best


@dataclass(frozen=True)
class Point:
    """One recipe that was tried, and its means over some prompts."""

    name: str
    density: float
    recipe: Recipe
    latent_error: float | None
    ssim: float | None
    speedup: float
    work: float

    def value(self, target: Target) -> float:
        found = getattr(self, target.metric)
        if found is None:
            raise Mistake(f"target {target}: this pipeline does not show its latents; use ssim")
        return found

    def __str__(self) -> str:
        error = "" if self.latent_error is None else f", latent error {self.latent_error:.4f}"
        ssim = "" if self.ssim is None else f", SSIM {self.ssim:.4f}"
        rest = f"{self.speedup:.2f}x, work {self.work:.3f}"
        return f"{self.name} at density {self.density:.3f}{error}{ssim}, {rest}"


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Args:
        recipe: meets the target.
        reached: on the prompts it was chosen on; `held_out` on those kept aside, None without any.
        corrected: whether the density was raised because of the prompts kept aside: then these are held out
            no more.
        points: everything that was tried by whole generations; `forced`, by the forced error.
        places: where the calls' errors are largest, worst first.
        layers: density of each layer.
        seconds: it took.
    """

    target: Target
    recipe: Recipe
    data: dict[str, Any]
    reached: Point
    held_out: Point | None
    corrected: bool
    points: tuple[Point, ...]
    forced: dict[str, float]
    places: tuple[Place, ...]
    layers: tuple[float, ...]
    settings: GenerateSettings
    prompts: tuple[str, ...]
    kept_aside: int
    machine: str
    seconds: float


@dataclass
class _Search:
    """The state of one tuning."""

    subject: Subject
    target: Target
    chosen_on: Sequence[int]
    aside: Sequence[int]
    squares: Any
    points: list[Point] = field(default_factory=list)

    def layers(self, density: float) -> tuple[float, ...]:
        return allocate(self.squares, density)

    def point(self, candidate: Candidate, density: float, prompts: Sequence[int]) -> Point:
        """A recipe by whole generations, its figures' means over some prompts."""
        recipe = candidate.recipe(density, self.layers(density))
        what = f"{candidate.name}, density {density:.2f}"
        outcomes = [self.subject.outcome(recipe, number, what) for number in prompts]
        found = _mean(candidate.name, density, recipe, outcomes)
        self.points.append(found)
        return found

    def meets(self, point: Point) -> bool:
        return self.target.met_by(point.value(self.target))

    def bisect(self, candidate: Candidate) -> Point:
        """The lowest density that meets a target of quality, or the highest that meets one of speed.

        Raises:
            Unreachable: if none does.
        """
        quality = self.target.metric != "speedup"
        best_end = self.point(candidate, MOST if quality else LEAST, self.chosen_on)
        if not self.meets(best_end):
            raise Unreachable(
                f"the target {self.target} cannot be reached here: the best that was found is {best_end}",
                best_end,
            )
        ends = {LEAST: None, MOST: None} | {best_end.density: self._loss(best_end)}
        low, high = LEAST, MOST
        best, moved, stuck = best_end, None, False
        for _ in range(ROUNDS):
            middle = self._between(low, high, *(() if stuck else (ends[low], ends[high])))
            found = self.point(candidate, middle, self.chosen_on)
            ends[middle] = self._loss(found)
            if self.meets(found):
                best = found
                if self._is_close(found):
                    break
            end = "high" if self.meets(found) == quality else "low"
            # A curve that bends lets the same end move in small steps again and again.
            stuck, moved = end == moved, end
            low, high = (low, middle) if end == "high" else (middle, high)
        return best

    def _between(
        self, low: float, high: float, at_low: float | None = None, at_high: float | None = None
    ) -> float:
        """Where the target should be between two densities: linear in logarithms, or the middle."""
        share = 0.5
        if at_low and at_high and at_low != at_high:
            wanted = self._loss_at_target()
            share = math.log(at_low / wanted) / math.log(at_low / at_high)
        return low * (high / low) ** min(max(share, 0.15), 0.85)

    def _loss(self, point: Point) -> float:
        """What a point loses, by the target's metric: it falls or rises with the density throughout."""
        value = point.value(self.target)
        return max(1 - value if self.target.metric == "ssim" else value, 1e-9)

    def _loss_at_target(self) -> float:
        return 1 - self.target.value if self.target.metric == "ssim" else self.target.value

    def _is_close(self, point: Point) -> bool:
        """Whether a figure is only just on the right side."""
        value = point.value(self.target)
        if self.target.metric == "ssim":
            return (1 - value) > (1 - self.target.value) * (1 - CLOSE)
        return abs(value / self.target.value - 1) < CLOSE


def tune(
    pipe: Any,
    prompts: Sequence[str],
    target: str | Target,
    *,
    settings: GenerateSettings | None = None,
    kept_aside: int | None = None,
    block_sizes: tuple[tuple[int, int], ...] = ((128, 64), (64, 64)),
    folder: str | Path = "out/tune",
    progress: Progress = lambda text: None,
) -> Tuned:
    """Find the fastest recipe that meets a target.

    Args:
        pipe: a diffusers video pipeline, loaded.
        prompts: at least two; each with its number, plus the settings' seed, as seed.
        target: "latent_error<0.15", "ssim>0.95" or "speedup>1.5".
        settings: how the pipeline is called: sizes, steps, guidance.
        kept_aside: of the prompts, the last ones that nothing is chosen on; None is half of them.
        block_sizes: that are tried, (query rows, key rows).
        folder: where results are kept; the same folder goes on where it was interrupted.
        progress: hears what is done next.

    Raises:
        Mistake: if the target or the prompts make no sense.
        Unreachable: if no recipe meets the target; holds the best one.
    """
    target = Target.parse(target) if isinstance(target, str) else target
    aside = len(prompts) // 2 if kept_aside is None else kept_aside
    if len(prompts) < 2 or not 0 <= aside < len(prompts):
        raise Mistake(
            f"tune needs at least two prompts and one to choose on, got {len(prompts)}, {aside} aside"
        )
    settings = settings or GenerateSettings(prompt=prompts[0])
    began = time.perf_counter()
    subject = Subject(pipe, settings, tuple(prompts), Path(folder), target.metric == "ssim", progress)
    chosen_on = range(len(prompts) - aside)
    progress(_estimate(subject, len(prompts), len(chosen_on), aside, len(candidates(block_sizes))))
    families = candidates(block_sizes)
    progress("where it hurts: every layer and head at every density")
    looked_at = profile(pipe, lambda: subject.run(0), lambda d: families[0].recipe(d).rules[0].policy)
    search = _Search(
        subject, target, chosen_on, range(len(prompts) - aside, len(prompts)), looked_at.by_layer()
    )
    forced = _ranked(search, families)
    best = min(families, key=lambda family: forced[family.name])
    reached = search.bisect(best)
    reached, held_out, corrected = _checked(search, best, reached)
    layers = search.layers(reached.density) if best.by_layer else ()
    return Tuned(
        target, reached.recipe, best.data(reached.density, layers), reached, held_out, corrected,
        tuple(search.points), forced, tuple(looked_at.worst()), layers, settings, tuple(prompts), aside,
        device_name(pipe.device), time.perf_counter() - began,
    )  # fmt: skip


def _estimate(subject: Subject, prompts: int, chosen_on: int, aside: int, families: int) -> str:
    """A sentence; runs the first dense generation, whose time it is told by."""
    subject.trajectory(0)
    seconds = subject.outcome_seconds(0)
    calls = prompts + 1 + families + (ROUNDS + 1) * chosen_on + 2 * aside
    return f"about {calls} generations of at most {seconds:.0f} s: {calls * seconds / 60:.0f} minutes at most"


def _ranked(search: _Search, families: Sequence[Candidate]) -> dict[str, float]:
    """The forced error of each family at one density, on the first prompt."""
    return {
        family.name: search.subject.forced(
            family.recipe(RANKED_AT, search.layers(RANKED_AT)), search.chosen_on[0], family.name
        )
        for family in families
    }


def _checked(search: _Search, best: Candidate, reached: Point) -> tuple[Point, Point | None, bool]:
    """The point after a look at the prompts kept aside, what it does there, and whether that changed it."""
    if not search.aside:
        return reached, None, False
    held_out = search.point(best, reached.density, search.aside)
    corrected = False
    for _ in range(CORRECTIONS):
        if search.target.met_by(held_out.value(search.target), SLACK):
            break
        corrected = True
        held_out = search.point(best, _corrected(search, held_out), search.aside)
    if not search.target.met_by(held_out.value(search.target), SLACK):
        raise Unreachable(
            f"the target {search.target} is met on the prompts that were chosen on, but not on those kept "
            f"aside: the best there is {held_out}",
            held_out,
        )
    return (held_out if corrected else reached), held_out, corrected


def _corrected(search: _Search, missed: Point) -> float:
    """A density that makes up for a miss: errors fall about with the square of the density."""
    value = missed.value(search.target)
    if search.target.metric == "speedup":
        return max(LEAST, missed.density * (value / search.target.value) ** 2)
    bad = (
        (1 - value) / (1 - search.target.value)
        if search.target.metric == "ssim"
        else value / search.target.value
    )
    return min(MOST, missed.density * bad**0.5 * 1.05)


def _mean(name: str, density: float, recipe: Recipe, outcomes: Sequence[Outcome]) -> Point:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(values) else None

    return Point(
        name,
        density,
        recipe,
        mean([outcome.latent_error for outcome in outcomes]),
        mean([outcome.ssim for outcome in outcomes]),
        sum(outcome.dense_seconds for outcome in outcomes) / sum(outcome.seconds for outcome in outcomes),
        statistics.fmean(outcome.work for outcome in outcomes),
    )
