"""Tuning a language model: the sparsest recipe that keeps perplexity, or what is found, on given texts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from accel.files import alone_in, write_whole
from accel.mistake import Mistake
from accel.recipe.files import build_recipe, recipe_data
from accel.recipe.recipe import Recipe
from accel.tuning.bisection import Bisection
from accel.tuning.language.readings import Readings
from accel.tuning.language.texts import Reading, Sample, plant
from accel.tuning.pace import Progress, silent
from accel.tuning.target import Target, aside_of, counted, margin
from accel.tuning.write import with_evidence

METRICS = ("perplexity", "retrieval", "speedup")
START = 0.2


@dataclass(frozen=True)
class LanguagePoint:
    """One density on some texts, each compared with its dense reading."""

    density: float
    recipe: Recipe
    pairs: tuple[tuple[Reading, Reading], ...]

    @property
    def perplexity(self) -> float:
        """Perplexity / the dense model's, the geometric mean over the texts."""
        return math.exp(statistics.fmean(own.loss - dense.loss for own, dense in self.pairs))

    @property
    def retrieval(self) -> float:
        """Of the facts that the dense model finds, the share that is found.

        Raises:
            Mistake: if it finds no fact.
        """
        kept = [
            now for own, dense in self.pairs for now, then in zip(own.found, dense.found, strict=True) if then
        ]
        if not kept:
            raise Mistake(
                "the dense model finds none of the facts planted in these texts: tune to perplexity instead"
            )
        return statistics.fmean(kept)

    @property
    def speedup(self) -> float:
        return sum(dense.seconds for _, dense in self.pairs) / sum(own.seconds for own, _ in self.pairs)

    @property
    def work(self) -> float:
        return statistics.fmean(own.work for own, _ in self.pairs)

    def value(self, target: Target) -> float:
        return getattr(self, target.metric)

    def cautious(self, target: Target) -> float:
        """The figure, of perplexity worse by its margin: other texts will differ from these."""
        if target.metric != "perplexity":
            return self.value(target)
        return self.perplexity * math.exp(margin([own.loss - dense.loss for own, dense in self.pairs]))

    def __str__(self) -> str:
        found = sum(sum(dense.found) for _, dense in self.pairs)
        kept = f", finds {self.retrieval:.2f} of {found} facts" if found else ""
        rest = f"{self.speedup:.2f}x, work {self.work:.3f}, {counted(len(self.pairs), 'text')}"
        return f"density {self.density:.3f}, perplexity x {self.perplexity:.4f}{kept}, {rest}"


@dataclass(frozen=True)
class TunedLanguage:
    """What tuning found: `data` is what the recipe's file holds."""

    target: Target
    data: dict[str, Any]
    reached: LanguagePoint
    held_out: LanguagePoint | None
    points: tuple[LanguagePoint, ...]


def texts_aside(texts: Sequence[str], target: Target, kept_aside: int | None) -> int:
    """How many of the texts to keep aside. Needs no model.

    Raises:
        Mistake: if the target is not one of language models, or no text is left to choose on.
    """
    if target.metric not in METRICS:
        raise Mistake(f"target {target}: of a language model it is {', '.join(METRICS)}")
    return aside_of(len(texts), "texts", kept_aside)


def tune_language(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    target: str | Target,
    *,
    kept_aside: int | None = None,
    most_tokens: int = 4096,
    folder: str | Path = "out/tune",
    progress: Progress = silent,
) -> TunedLanguage:
    """Find the lowest density of the default method that meets a target on prompts like these texts.

    Args:
        model, tokenizer: of transformers, the model causal.
        texts: at least two, of 512 tokens or more.
        target: "perplexity<1.02" (of the dense model's), "retrieval>0.95" or "speedup>1.5".
        kept_aside: of the texts, the last ones that nothing is chosen on; None is half of them.
        most_tokens: of each that are read.
        folder: where readings are kept; with the same folder, an interrupted search continues.
        progress: hears what is done next.

    Raises:
        Mistake: if the target or the texts make no sense, or the folder's results are damaged.
        BlockingIOError: if another tuning is using the folder.
        Unreachable: if no density meets the target; holds the best.
    """
    target = Target.parse(target) if isinstance(target, str) else target
    aside = texts_aside(texts, target, kept_aside)
    samples = [plant(tokenizer, text, number, most_tokens) for number, text in enumerate(texts)]
    with alone_in(Path(folder)):
        return _found(Readings(model, Path(folder)), samples, target, aside, progress)


def _found(
    readings: Readings, samples: Sequence[Sample], target: Target, aside: int, progress: Progress
) -> TunedLanguage:
    dense = []
    for number, sample in enumerate(samples):
        progress(f"dense: text {number + 1} of {len(samples)}", number / len(samples) / 4)
        dense.append(readings.of(sample))
    points: list[LanguagePoint] = []
    chosen_on, kept = slice(0, len(samples) - aside), slice(len(samples) - aside, None)

    def point_at(density: float, which: slice) -> LanguagePoint:
        progress(f"density {density:.3f}", min(0.25 + 0.1 * len(points), 0.9))
        recipe = recipe_at(density)
        read = [readings.of(sample, recipe) for sample in samples[which]]
        points.append(LanguagePoint(density, recipe, tuple(zip(read, dense[which], strict=True))))
        return points[-1]

    reached = Bisection(lambda density: point_at(density, chosen_on), target).search(START)
    held_out = point_at(reached.density, kept) if aside else None
    return TunedLanguage(target, recipe_data(reached.recipe), reached, held_out, tuple(points))


def recipe_at(density: float) -> Recipe:
    """The default method at a density, whatever the length of a prompt."""
    policy = {
        "method": "compose",
        "score": {"kind": "wanted", "query": 4, "channels": 0.5},
        "select": {
            "kind": "top_k",
            "density": round(density, 3),
            "budget": "layer",
            "row_density": round(density / 2, 3),
        },
        "always": {"sink": 64},
        "block_size": [64, 64],
    }
    return build_recipe(
        {
            "description": "a language model, tuned",
            "schedule": {"dense_queries": 64, "min_tokens": 0},
            "rules": [{"match": "*", "policy": policy}],
        },
        "tune",
    )


def recipe_file(tuned: TunedLanguage, model: str, texts: Sequence[str], path: Path) -> Path:
    """Write the recipe as YAML, with its evidence in comments."""
    held_out = "no texts were kept aside" if tuned.held_out is None else str(tuned.held_out)
    lines = [
        f"Tuned by `accel tune` to {tuned.target}, {date.today().isoformat()}, of {model}.",
        f"Reached: {tuned.reached}",
        f"Kept aside: {held_out}",
        f"Texts, the last ones kept aside: {', '.join(texts)}",
        "Perplexity is / the dense model's, of the second half of each text, in which facts are planted.",
        "Not measured: longer prompts, other texts, decoding, which runs dense.",
    ]
    return write_whole(path, with_evidence(lines, tuned.data, f"tuned to {tuned.target}"))
