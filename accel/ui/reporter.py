"""Reporter: sends step by step what a person sees of a run."""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from accel.comparison.runs import compared_with
from accel.run.generate import Generated
from accel.run.preview import preview
from accel.run.video import write_result
from accel.run.watcher import WARM_UP, Watcher
from accel.ui.numbers import Row, numbers

SHOWN = ("dense", "accelerated")


@dataclass(frozen=True)
class Shown:
    """What a person sees.

    Args:
        status: what is being done, or what went wrong.
        dense, accelerated: the results, as soon as each is there.
        numbers: rows of a name, dense, accelerated, and how much faster; or of a name and a score.
        verdict: sentences that say what the numbers mean.
        recipe: the YAML to copy.
        page: the comparison's report.
    """

    status: str
    preview: Image.Image | None = None
    dense: Path | None = None
    accelerated: Path | None = None
    numbers: tuple[Row, ...] = ()
    verdict: tuple[str, ...] = ()
    summary: str = ""
    recipe: str = ""
    page: Path | None = None
    failed: bool = False


class Stopped(Exception):
    """The person who asked for the run has left."""


class Reporter(Watcher):
    """Puts what happens into the queue `updates`.

    Attributes:
        stopped: whether the next step ends the run, because nobody reads any more.
        files: results that are written.
    """

    def __init__(self, updates: queue.SimpleQueue[Shown | None]) -> None:
        self.updates = updates
        self.shown = Shown("")
        self.stopped = False
        self.files: dict[str, Path] = {}
        self.folder, self.ending, self.rate = Path(), ".mp4", 8.0
        self.steps: int | None = None
        self.name, self.run, self.began = "", "", 0.0
        self.dense: Generated | None = None

    def report(self, **changes: Any) -> None:
        """Send what is new.

        Raises:
            Stopped: if nobody reads it any more.
        """
        if self.stopped:
            raise Stopped
        self.show(**changes)

    def show(self, **changes: Any) -> None:
        """The same, even if nobody reads it any more."""
        self.shown = replace(self.shown, **changes)
        self.updates.put(self.shown)

    def stop(self) -> None:
        """End the run at its next step."""
        self.stopped = True
        self.show(status="stopping at the next step")

    def begins(self, name: str, number: int, of: int) -> None:
        self.name = name
        self.run, self.began = f"{number} of {of}: {name}", time.perf_counter()
        self.report(status=self.run)

    def step(self, step: int, latents: Tensor) -> None:
        status = f"{self.run}, step {step + 1}"
        if self.steps and self.name != WARM_UP:
            left = (time.perf_counter() - self.began) / (step + 1) * max(self.steps - step - 1, 0)
            status += f" of {self.steps}, about {left:.0f} s left"
        self.report(status=status, preview=preview(latents))

    def made(self, name: str, run: Generated) -> None:
        if name not in SHOWN:
            return
        path = self.folder / f"{name}{self.ending}"
        self.files[name] = write_result(run.frames, path, self.rate)
        if name == "dense":
            self.dense = run
            known = numbers(run.seconds)
        else:
            assert self.dense is not None
            known = numbers(self.dense.seconds, run.seconds, compared_with(name, run, self.dense))
        self.report(numbers=known, **{name: path})
