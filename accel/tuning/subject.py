"""Subject: what is tuned: a pipeline and how it is called, its dense runs, and what a recipe makes of them.

Everything that took time is written to a folder at once, so that interrupted tuning can continue.
Forwards that a recipe leaves dense at the start are played back from the dense run, and count as the work and
the time that they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from accel.accelerate import accelerated, patches_of
from accel.apply.summary import summarize
from accel.comparison.quality import measure_quality, relative_error
from accel.files import Results, whole_file
from accel.machine.versions import device_name
from accel.patches.models import supported_models
from accel.recipe.compensate import Compensate
from accel.recipe.files import recipe_data
from accel.recipe.recipe import DENSE, Recipe
from accel.recipe.schedule import whole
from accel.run.generate import Generated, arguments_of, generate
from accel.run.settings import GenerateSettings
from accel.tuning.pace import Pace
from accel.tuning.playback import Playback, work_of
from accel.tuning.trajectory import Trajectory, forced_errors, record

KEPT_SHARE, MOST_PASSES = 0.5, 2
SECONDS, DENSITIES = "seconds", "densities"


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


@dataclass(frozen=True)
class Dense:
    """A prompt's dense run.

    Args:
        course: its velocities and last latents.
        frames: [F, H, W, C]; empty if they were not decoded.
        seconds: of the transformers' forwards.
        forwards: how many those were; 0 if none are kept for playback.
        outputs: of the first of them.
    """

    course: Trajectory
    frames: Tensor
    seconds: float
    forwards: int
    outputs: tuple[Any, ...]


@dataclass
class Subject:
    """A pipeline to tune.

    Args:
        pipe: a diffusers pipeline.
        settings: how it is called; the prompt and the seed are replaced.
        prompts: each with its number as seed.
        folder: where dense runs and results are kept.
        pixels: whether videos are decoded.
        pace: hears of everything that takes time before it begins.

    Raises:
        Mistake: if the folder's results are damaged.
    """

    pipe: Any
    settings: GenerateSettings
    prompts: tuple[str, ...]
    folder: Path
    pixels: bool = False
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        self._model = fingerprint(self.pipe)
        self._results = Results(self.folder)

    @property
    def has_decoder(self) -> bool:
        return getattr(self.pipe, "vae", None) is not None

    def settings_of(self, number: int) -> GenerateSettings:
        changes = {"prompt": self.prompts[number], "seed": self.settings.seed + number}
        return self.settings.model_copy(update=changes)

    def run(self, number: int) -> Tensor:
        """The last latents of one call of the pipeline as it is; None if it does not return them."""
        return last_latents(self.pipe, self.settings_of(number))

    def outcome(self, recipe: Recipe, number: int, what: str) -> Outcome:
        """A whole generation against the dense one; `what` names the recipe for the progress."""
        key = self._key("outcome", recipe, number)
        if key not in self._results:
            dense = self.dense(number)
            self.pace.next(f"{what}: prompt {number + 1} of {len(self.prompts)}")
            with torch.no_grad(), self._played(dense, recipe) as playback:
                made = generate(self.pipe, self.settings_of(number), recipe, decode=self.pixels)
            error = None if made.latents is None else relative_error(made.latents, dense.course.latents)
            ssim = measure_quality(made.frames.float(), dense.frames).ssim if self.pixels else None
            seconds, work = made.seconds.transformer, self._work(made.patch, playback)
            if playback is not None:
                seconds += playback.played * dense.seconds / dense.forwards
            self._results.keep(key, asdict(Outcome(error, ssim, seconds, dense.seconds, work)))
        self.pace.done(key)
        return self._results.read(key, lambda kept: Outcome(**kept))

    def forced(self, recipe: Recipe, number: int, what: str) -> tuple[float, float]:
        """Root mean square over the steps of the forced error of the guided velocity, and the work."""
        key = self._key("forced", recipe, number)
        if key not in self._results:
            dense = self.dense(number)
            self.pace.next(f"{what}: forced error, prompt {number + 1} of {len(self.prompts)}")
            with torch.no_grad(), accelerated(self.pipe, recipe), self._played(dense, recipe) as playback:
                (patch,) = patches_of(self.pipe)
                errors = forced_errors(self.pipe, lambda: self.run(number), dense.course)
            rms = (sum(error**2 for error in errors) / len(errors)) ** 0.5
            self._results.keep(key, [rms, self._work(patch, playback)])
        self.pace.done(key)
        return self._results.read(key, lambda kept: (float(kept[0]), float(kept[1])))

    def shown(self, recipe: Recipe, number: int) -> tuple[Tensor, ...]:
        """The dense and the recipe's frames [F, H, W, C] of one prompt; nothing if they cannot be decoded."""
        if not self.has_decoder:
            return ()
        found = []
        for name, of in (("dense", DENSE), ("tuned", recipe)):
            file = self.file(f"{name}-frames", of, number)
            kept = tensors_in(file)
            if kept is None:
                self.pace.next(f"the {name} video of prompt {number + 1}")
                with torch.no_grad(), self._played(self.dense(number), of):
                    kept = generate(self.pipe, self.settings_of(number), of).frames.to(torch.float16)
                with whole_file(file) as draft:
                    torch.save(kept, draft)
            found.append(kept.float())
            self.pace.done(file.name)
        return tuple(found)

    def file(self, kind: str, recipe: Recipe | None, number: int) -> Path:
        """The file for tensors that depend on the model, the settings, a recipe and a prompt."""
        return self.folder / f"{self._key(kind, recipe, number)}.pt"

    def _work(self, patch: Any, playback: Playback | None) -> float:
        if playback is None:
            return summarize([patch]).density or 1.0
        return work_of(patch, playback.played, playback.forwards)

    @contextmanager
    def _played(self, dense: Dense, recipe: Recipe) -> Iterator[Playback | None]:
        """Play back what a recipe leaves dense at the start, except the step that captures a residual."""
        if not dense.forwards or recipe == DENSE:
            yield None
            return
        steps = len(dense.course.velocities)
        first = min(
            whole(min(recipe.schedule_of(rule).dense_steps for rule in recipe.rules), steps),
            int(KEPT_SHARE * steps),
        )
        skipped = max(0, first - 1 if isinstance(recipe.compensate, Compensate) else first)
        playback = Playback(dense.outputs)
        with playback.playing(
            next(iter(supported_models(self.pipe).values())), skipped * dense.forwards // steps
        ):
            yield playback

    def dense(self, number: int) -> Dense:
        """A prompt's dense run, from the folder if it is there."""
        file = self.file("dense", None, number)
        kept = tensors_in(file)
        if kept is None:
            self.pace.next(f"dense: prompt {number + 1} of {len(self.prompts)}")
            made: list[Generated] = []

            def call() -> Tensor:
                made.append(
                    generate(self.pipe, self.settings_of(number), decode=self.pixels or self.has_decoder)
                )
                return made[0].frames if made[0].latents is None else made[0].latents

            models = list(supported_models(self.pipe).values())
            playback = Playback()
            most = int(KEPT_SHARE * (self.settings.num_inference_steps or 50)) * MOST_PASSES
            recording = playback.recording(models[0], most) if len(models) == 1 else nullcontext()
            with torch.no_grad(), recording:
                course = record(self.pipe, call)
            # A step whose forwards cannot be distinguished is not played back.
            even = playback.forwards % len(course.velocities) == 0
            kept = {
                "velocities": list(course.velocities),
                "latents": course.latents,
                "frames": made[0].frames.to(torch.float16),
                "seconds": made[0].seconds.transformer,
                "forwards": playback.forwards if even else 0,
                "outputs": tuple(playback.outputs) if even else (),
            }
            with whole_file(file) as draft:
                torch.save(kept, draft)
        self.pace.done(file.name)
        course = Trajectory(tuple(kept["velocities"]), kept["latents"])
        return Dense(course, kept["frames"].float(), kept["seconds"], kept["forwards"], kept["outputs"])

    @property
    def densities(self) -> list[float]:
        """Every density that was tried in this folder."""
        return self._results.read(DENSITIES, list) if DENSITIES in self._results else []

    def remember(self, density: float) -> None:
        """That a density is tried."""
        if density not in self.densities:
            self._results.keep(DENSITIES, [*self.densities, density])

    def knows(self, recipe: Recipe, number: int) -> bool:
        """Whether the folder has a recipe's outcome on a prompt."""
        return self._key("outcome", recipe, number) in self._results

    def took(self, seconds: float) -> float:
        """Add to the seconds that this folder has taken, interrupted runs too; all of them."""
        before = self._results.read(SECONDS, float) if SECONDS in self._results else 0.0
        self._results.keep(SECONDS, before + seconds)
        return before + seconds

    def _key(self, kind: str, recipe: Recipe | None, number: int) -> str:
        data = None if recipe is None else {**recipe_data(recipe), "description": ""}
        settings = self.settings_of(number).model_dump(mode="json")
        about = [kind, data, settings, self._model, *([self.pixels] if kind == "outcome" else [])]
        return Results.key(kind, about)


def tensors_in(file: Path) -> Any:
    """What `torch.save` wrote to a file; None if it is missing or damaged, and so to be made again."""
    try:
        return torch.load(file)
    except (OSError, RuntimeError, EOFError, UnpicklingError):
        return None


def last_latents(pipe: Any, settings: GenerateSettings) -> Tensor:
    """The undecoded latents of one call of a pipeline; None if it does not return them."""
    latents: list[Tensor] = []
    pipe(**arguments_of(pipe, settings, latents, decode=False))
    return latents[-1] if latents else torch.empty(0)


def fingerprint(pipe: Any) -> str:
    """What distinguishes pipelines: classes, scheduler's settings, a number of each weight, the machine."""
    scheduler = getattr(pipe, "scheduler", None)
    found = [type(pipe).__name__, type(scheduler).__name__, device_name(pipe.device)]
    config = getattr(scheduler, "config", {})
    found += sorted(f"{name} {value}" for name, value in config.items() if not name.startswith("_"))
    for name, model in supported_models(pipe).items():
        found += [name, type(model).__name__, str(model.dtype)]
        for weight_name, weight in model.named_parameters():
            plain = (
                type(weight.data) is Tensor and weight.is_floating_point() and weight.device.type != "meta"
            )
            first = weight.detach().flatten()[:1].float().cpu().tolist() if plain else []
            found.append(f"{weight_name} {tuple(weight.shape)} {first}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()
