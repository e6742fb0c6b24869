"""Target: the quality or speed to tune to, such as `latent_error<0.15`, `ssim>0.95` or `speedup>1.5`."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from accel.mistake import Mistake

Metric = Literal["latent_error", "ssim", "speedup", "perplexity", "retrieval"]
LOWER_IS_BETTER = ("latent_error", "perplexity")
# What dense attention has of each quality, and how far from it a bound may be.
PERFECT = {"latent_error": 0.0, "ssim": 1.0, "perplexity": 1.0, "retrieval": 1.0}
BOUNDS = {
    "latent_error": (0, 2), "ssim": (0, 1), "speedup": (1, 100), "perplexity": (1, 10), "retrieval": (0, 1)
}  # fmt: skip
CONFIDENCE = 0.8  # that the mean over as many other prompts is no worse than the margin allows
PATTERN = re.compile(r"\s*([a-z_]+)\s*(<=?|>=?)\s*([-+.0-9eE]+)\s*")


@dataclass(frozen=True)
class Target:
    """What is asked for.

    Args:
        metric: the relative error of the last latents, the mean SSIM, or dense seconds / accelerated seconds;
            of language models perplexity / the dense model's, or the share that is found of planted facts.
        value: its bound: the most of an error, the least of the others.

    Raises:
        Mistake: if no recipe could mean anything by it.
    """

    metric: Metric
    value: float

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise Mistake(f"target: unknown {self.metric!r}; one of {', '.join(get_args(Metric))}")
        low, high = BOUNDS[self.metric]
        if not (math.isfinite(self.value) and low < self.value < high):
            raise Mistake(f"target: {self.metric} is between {low} and {high}, got {self.value}")

    @classmethod
    def parse(cls, text: str) -> Target:
        """A target from text.

        Raises:
            Mistake: if it is not one; shows one that is.
        """
        found = PATTERN.fullmatch(text)
        if found is None:
            raise Mistake(
                f"target {text!r}: expected for example latent_error<0.15, ssim>0.95 or speedup>1.5"
            )
        metric, sign, number = found.groups()
        try:
            value = float(number)
        except ValueError:
            raise Mistake(f"target {text!r}: {number} is not a number") from None
        target = cls(metric, value)  # type: ignore[arg-type]
        if (sign[0] == "<") != target.lower_is_better:
            raise Mistake(f"target {text!r}: write {target}, {metric} is better the other way")
        return target

    @property
    def lower_is_better(self) -> bool:
        return self.metric in LOWER_IS_BETTER

    def met_by(self, value: float, slack: float = 0.0) -> bool:
        """Whether a figure meets the target, or misses it by at most a share `slack` of the loss.

        Of quality what is lost is the distance to dense attention's, of a speed-up the speed-up.
        """
        if self.metric == "speedup":
            return value >= self.value * (1 - slack)
        perfect = PERFECT[self.metric]
        sign = 1 if self.lower_is_better else -1
        return sign * (value - perfect) <= sign * (self.value - perfect) * (1 + slack)

    def lost(self, value: float) -> float:
        """What a figure loses, above 0: the distance to dense attention's quality, or 1 / a speed-up."""
        if self.metric == "speedup":
            return 1 / value
        sign = 1 if self.lower_is_better else -1
        return max(sign * (value - PERFECT[self.metric]), 1e-9)

    def is_close(self, value: float, share: float) -> bool:
        """Whether a figure loses at least the target's loss less a share of it."""
        return self.lost(value) > self.lost(self.value) * (1 - share)

    def __str__(self) -> str:
        return f"{self.metric}{'<' if self.lower_is_better else '>'}{self.value:g}"


def margin(values: Sequence[float]) -> float:
    """How much worse the mean over as many others may be, four times of five; 0 for one value.

    The one-sided prediction interval of a mean, by Student's t; its quantile by Cornish and Fisher's series.
    """
    count = len(values)
    if count < 2:
        return 0.0
    z, free = statistics.NormalDist().inv_cdf(CONFIDENCE), count - 1
    quantile = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return quantile * statistics.stdev(values) * math.sqrt(2 / count)


def counted(count: int, what: str) -> str:
    """A number of things: `1 prompt`, `2 prompts`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def aside_of(count: int, what: str, kept_aside: int | None) -> int:
    """How many of `count` prompts or texts are kept aside; None keeps half of them. Needs no model.

    Raises:
        Mistake: if nothing is left to choose on.
    """
    aside = count // 2 if kept_aside is None else kept_aside
    if count < 2 or not 0 <= aside < count:
        raise Mistake(
            f"tune needs at least two {what}, one of them to choose on; got {count}, with {aside} kept aside"
        )
    return aside
