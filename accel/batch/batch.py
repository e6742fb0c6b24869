"""Batch: many videos from one pipeline, one after the other, each written whole, then recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accel.accelerate import plan_for
from accel.apply.summary import summarize
from accel.batch.manifest import Manifest, fingerprint
from accel.batch.prompts import Job
from accel.machine.versions import device_name, versions
from accel.mistake import Mistake
from accel.recipe.files import recipe_data
from accel.recipe.recipe import Recipe
from accel.run.generate import generate
from accel.run.video import write_result


class BatchError(Mistake):
    """The contents of a folder conflict with the request."""


@dataclass(frozen=True)
class Batch:
    """What all videos of a run share.

    Args:
        model: as the user named it.
        recipe: None for the one that is shipped for the model.
        changes: to the recipe, see `override`.
        loras: as the user named them.
        folder: where videos, records and manifest go.
        fps: frames per second for videos whose settings do not say.
        suffix: of the files, ".mp4" or ".png".
    """

    model: str
    recipe: Recipe | None
    changes: Mapping[str, Any]
    loras: tuple[str, ...]
    folder: Path
    fps: float
    suffix: str = ".mp4"

    @property
    def manifest(self) -> Manifest:
        return Manifest(self.folder)

    def asked(self, job: Job) -> dict[str, Any]:
        """Everything that a video depends on, except versions, as plain data."""
        recipe = None if self.recipe is None else recipe_data(self.recipe)
        return {
            "model": self.model,
            "loras": list(self.loras),
            "recipe": recipe,
            "changes": dict(self.changes),
            "fps": self.fps,
            "settings": job.settings.model_dump(mode="json"),
        }

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs whose videos are not there yet.

        Raises:
            BatchError: if a name is there and is another video.
        """
        found = [self.manifest.find(job.name) for job in jobs]
        others = [
            f"line {job.line}: {job.name!r} is there already, made with {difference(record, self.asked(job))}"
            for job, record in zip(jobs, found, strict=True)
            if record is not None and record["fingerprint"] != fingerprint(self.asked(job))
        ]
        if others:
            said = "\n".join(others)
            raise BatchError(f"{said}\nTake another folder or other names, or delete the videos to replace.")
        return [job for job, record in zip(jobs, found, strict=True) if record is None]


def difference(record: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """How a recorded video differs from the request, in words."""
    made = {**record, **record["settings"]}
    wanted = {**asked, **asked["settings"]}
    names = ("model", "loras", "changes", "fps", *asked["settings"])
    return f"another {', '.join([key for key in names if made.get(key) != wanted[key]] or ['recipe'])}"


@dataclass
class Outcome:
    """What one process did.

    Args:
        made: names of its videos.
        failed: error by name; the next run tries these again.
    """

    made: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def make(jobs: Sequence[Job], batch: Batch, pipe: Any, report: Callable[[str], None]) -> Outcome:
    """Make videos. One that fails does not stop the rest.

    Args:
        report: called with a sentence about every video.

    Raises:
        RecipeError: if the recipe does not fit the model.
    """
    recipe = plan_for(pipe, batch.recipe, **batch.changes).recipe
    outcome = Outcome()
    for job in jobs:
        try:
            seconds = make_one(job, batch, pipe, recipe)
        except Exception as error:
            outcome.failed[job.name] = f"{type(error).__name__}: {error}"
            report(f"line {job.line}: {job.name} failed: {outcome.failed[job.name]}")
            continue
        outcome.made.append(job.name)
        report(f"{job.name}{batch.suffix}: {seconds:.1f} s")
    return outcome


def make_one(job: Job, batch: Batch, pipe: Any, recipe: Recipe) -> float:
    """Make, write and record one video; returns the seconds it took to generate."""
    run = generate(pipe, job.settings, recipe)
    started = time.perf_counter()
    video = write_result(
        run.frames, batch.folder / f"{job.name}{batch.suffix}", job.settings.fps or batch.fps
    )
    account = summarize([run.patch])
    asked = batch.asked(job)
    record = {
        "name": job.name,
        "file": video.name,
        "bytes": video.stat().st_size,
        **asked,
        "recipe": recipe_data(recipe),
        "seconds": {**asdict(run.seconds), "writing": time.perf_counter() - started},
        "density": account.density,
        "sparse_density": account.sparse_density,
        "dense_reasons": account.dense_reasons,
        "device": device_name(pipe.device),
        "versions": versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": fingerprint(asked),
    }
    batch.manifest.add(job.name, record)
    return run.seconds.total
