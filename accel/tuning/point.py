"""Point: one recipe that was tried by whole generations, and the account of a whole tuning."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accel.mistake import Mistake
from accel.recipe.recipe import Recipe
from accel.run.settings import GenerateSettings
from accel.tuning.profile import Profile
from accel.tuning.subject import Outcome
from accel.tuning.target import Target, counted, margin


@dataclass(frozen=True)
class Point:
    """One recipe on some prompts.

    Args:
        name: of its family.
        density: mean over its layers.
        outcomes: one a prompt.
    """

    name: str
    density: float
    recipe: Recipe
    outcomes: tuple[Outcome, ...]

    @property
    def latent_error(self) -> float | None:
        return self._mean("latent_error")

    @property
    def ssim(self) -> float | None:
        return self._mean("ssim")

    @property
    def speedup(self) -> float:
        dense = sum(outcome.dense_seconds for outcome in self.outcomes)
        return dense / sum(outcome.seconds for outcome in self.outcomes)

    @property
    def work(self) -> float:
        return statistics.fmean(outcome.work for outcome in self.outcomes)

    def value(self, target: Target) -> float:
        """The figure that a target is about, its mean over the prompts.

        Raises:
            Mistake: if the pipeline does not show it.
        """
        found = getattr(self, target.metric)
        if found is None:
            raise Mistake(f"target {target}: this pipeline does not show its latents; use ssim")
        return found

    def cautious(self, target: Target) -> float:
        """The figure, of quality worse by its margin: other prompts will differ from these."""
        value = self.value(target)
        if target.metric == "speedup":
            return value
        error = margin([getattr(outcome, target.metric) for outcome in self.outcomes])
        return value + error if target.lower_is_better else value - error

    def _mean(self, name: str) -> float | None:
        values: Sequence[float | None] = [getattr(outcome, name) for outcome in self.outcomes]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(values) else None

    def __str__(self) -> str:
        error = "" if self.latent_error is None else f", latent error {self.latent_error:.4f}"
        ssim = "" if self.ssim is None else f", SSIM {self.ssim:.4f}"
        rest = f"{self.speedup:.2f}x, work {self.work:.3f}, {counted(len(self.outcomes), 'prompt')}"
        return f"{self.name} at density {self.density:.3f}{error}{ssim}, {rest}"


class Unreachable(Mistake):
    """No recipe met the target; `best` is the one that came closest.

    Args:
        best: what was found all the same.
    """

    def __init__(self, text: str, best: Any) -> None:
        super().__init__(text)
        self.best = best


@dataclass(frozen=True)
class Ranked:
    """One recipe by its forced error, a mean over some prompts, and its executed share of dense attention."""

    name: str
    work: float
    forced: float
    prompts: int


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Args:
        recipe: meets the target; `data` is what its file holds.
        reached: on the prompts it was chosen on; `held_out` on those kept aside, None without any.
        corrected: whether `held_out`, the first choice, missed the target: then `recipe` was chosen again on
            all prompts, and none is held out any more.
        points: everything that was tried by whole generations.
        ranked: everything that was ranked by the forced error, best first.
        profile: where the calls' errors are.
        videos: the dense frames of one prompt and the chosen recipe's, [F, H, W, C] in [0, 1]; None if the
            pipeline cannot show them.
        seconds: everything in the folder took, interrupted runs too.
    """

    target: Target
    recipe: Recipe
    data: dict[str, Any]
    reached: Point
    held_out: Point | None
    corrected: bool
    points: tuple[Point, ...]
    ranked: tuple[Ranked, ...]
    profile: Profile
    settings: GenerateSettings
    prompts: tuple[str, ...]
    kept_aside: int
    machine: str
    seconds: float
    videos: tuple[Any, ...] = ()
