"""Subject: what is tuned: a pipeline and how it is called, its dense runs, and what a recipe makes of them.

Everything that took time is written to a folder at once, so that an interrupted tuning goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel.accelerate import accelerated
from accel.apply.summary import summarize
from accel.comparison.quality import measure_quality, relative_error
from accel.files import whole_file
from accel.recipe.files import recipe_data
from accel.recipe.recipe import Recipe
from accel.run.generate import Generated, arguments_of, generate
from accel.run.settings import GenerateSettings
from accel.tuning.trajectory import Trajectory, forced_errors, record

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a recipe does on one prompt.

    Args:
        latent_error: relative error of the last latents; None where the pipeline does not show them.
        ssim: mean over the frames; None if they were not decoded.
        seconds, dense_seconds: of the transformers' forwards.
        work: executed blocks / those of dense attention.
    """

    latent_error: float | None
    ssim: float | None
    seconds: float
    dense_seconds: float
    work: float

    @property
    def speedup(self) -> float:
        return self.dense_seconds / self.seconds


@dataclass
class Subject:
    """A pipeline to tune.

    Args:
        pipe: a diffusers pipeline.
        settings: how it is called; the prompt and the seed are replaced.
        prompts: each with its number as seed.
        folder: where dense runs and results are kept.
        pixels: whether videos are decoded.
        progress: hears of everything that takes time before it begins.
    """

    pipe: Any
    settings: GenerateSettings
    prompts: tuple[str, ...]
    folder: Path
    pixels: bool = False
    progress: Progress = lambda text: None
    _results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self._results = json.loads(self._file.read_text(encoding="utf-8"))

    def settings_of(self, number: int) -> GenerateSettings:
        changes = {"prompt": self.prompts[number], "seed": self.settings.seed + number}
        return self.settings.model_copy(update=changes)

    def trajectory(self, number: int) -> Trajectory:
        """The dense run's course, from the folder if it is there."""
        return self._dense(number)[0]

    def outcome_seconds(self, number: int) -> float:
        """Seconds of a dense run's forwards."""
        return self._dense(number)[2]

    def run(self, number: int) -> Tensor:
        """The last latents of one call of the pipeline as it is now."""
        latents: list[Tensor] = []
        self.pipe(**arguments_of(self.pipe, self.settings_of(number), latents, decode=False))
        return latents[-1] if latents else torch.empty(0)

    def outcome(self, recipe: Recipe, number: int, what: str) -> Outcome:
        """A whole generation against the dense one; `what` names the recipe for the progress."""
        key = self._key("outcome", recipe, number)
        if key not in self._results:
            dense, frames, dense_seconds = self._dense(number)
            self.progress(f"{what}: prompt {number + 1} of {len(self.prompts)}")
            with torch.no_grad():
                made = generate(self.pipe, self.settings_of(number), recipe, decode=self.pixels)
            error = None if made.latents is None else relative_error(made.latents, dense.latents)
            ssim = measure_quality(made.frames.float(), frames).ssim if self.pixels else None
            work = summarize([made.patch]).density or 1.0
            found = Outcome(error, ssim, made.seconds.transformer, dense_seconds, work)
            self._keep(key, asdict(found))
        return Outcome(**self._results[key])

    def forced(self, recipe: Recipe, number: int, what: str) -> float:
        """Root mean square over the steps of the forced error of the guided velocity."""
        key = self._key("forced", recipe, number)
        if key not in self._results:
            dense = self.trajectory(number)
            self.progress(f"{what}: forced error, prompt {number + 1} of {len(self.prompts)}")
            with accelerated(self.pipe, recipe), torch.no_grad():
                errors = forced_errors(self.pipe, lambda: self.run(number), dense)
            self._keep(key, (sum(error**2 for error in errors) / len(errors)) ** 0.5)
        return self._results[key]

    def _dense(self, number: int) -> tuple[Trajectory, Tensor, float]:
        """A prompt's dense run: its course, frames [F, H, W, C] and seconds of the transformers."""
        file = self.folder / f"dense-{self._digest('dense', None, number)}.pt"
        if not file.exists():
            self.progress(f"dense: prompt {number + 1} of {len(self.prompts)}")
            made: list[Generated] = []

            def call() -> Tensor:
                made.append(generate(self.pipe, self.settings_of(number), decode=self.pixels))
                return made[0].frames if made[0].latents is None else made[0].latents

            with torch.no_grad():
                course = record(self.pipe, call)
            kept = {
                "velocities": list(course.velocities),
                "latents": course.latents,
                "frames": made[0].frames.to(torch.float16),
                "seconds": made[0].seconds.transformer,
            }
            with whole_file(file) as draft:
                torch.save(kept, draft)
        found = torch.load(file)
        course = Trajectory(tuple(found["velocities"]), found["latents"])
        return course, found["frames"].float(), found["seconds"]

    @property
    def _file(self) -> Path:
        return self.folder / "results.json"

    def _keep(self, key: str, value: Any) -> None:
        self._results[key] = value
        with whole_file(self._file) as draft:
            draft.write_text(json.dumps(self._results, indent=1), encoding="utf-8")

    def _key(self, kind: str, recipe: Recipe, number: int) -> str:
        return f"{kind}-{self._digest(kind, recipe, number)}"

    def _digest(self, kind: str, recipe: Recipe | None, number: int) -> str:
        data = None if recipe is None else {**recipe_data(recipe), "description": ""}
        about = [
            kind,
            data,
            self.settings_of(number).model_dump(mode="json"),
            type(self.pipe).__name__,
            self.pixels,
        ]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
