"""Session: one run at a time, dense and accelerated, reported step by step; knows nothing of web pages."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from accel.apply.summary import summarize
from accel.cli.app import sentence_of
from accel.comparison import Report, report_as_dict, write_report
from accel.comparison.from_runs import report_of, shown_recipe
from accel.comparison.runs import Compared, compare_runs
from accel.comparison.words import verdict
from accel.mistake import Mistake
from accel.run.preview import preview
from accel.run.settings import LoadSettings
from accel.run.video import write_result
from accel.run.watcher import WARM_UP, Watcher
from accel.ui.form import Checked, Form

Row = tuple[str, str, str, str]
BUSY = "another run is in progress: one at a time"
SHOWN = ("dense", "accelerated")


@dataclass(frozen=True)
class Shown:
    """What a person sees.

    Args:
        status: what is being done, or what went wrong.
        dense, accelerated: the results, as soon as each is there.
        numbers: rows of a name, dense, accelerated, and how much faster; or of a name and a score.
        verdict: what they mean.
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


class Session:
    """Runs forms, one at a time, and writes into one folder.

    Args:
        output: each run gets its own folder in it.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._one = threading.Lock()
        self._loaded: tuple[LoadSettings, Any] | None = None
        self._teller: Teller | None = None

    def run(self, form: Form) -> Iterator[Shown]:
        """What to show, repeatedly until the run is over. Closing the iterator stops the run."""
        if not self._one.acquire(blocking=False):
            yield Shown(BUSY, failed=True)
            return
        told: queue.SimpleQueue[Shown | None] = queue.SimpleQueue()
        teller = self._teller = Teller(told)
        thread = threading.Thread(target=self._work, args=(form, teller), daemon=True)
        thread.start()
        try:
            while (shown := told.get()) is not None:
                yield shown
        finally:
            teller.stopped = True
            thread.join()
            self._one.release()

    def stop(self) -> None:
        """End the current run, if there is one, at its next step."""
        if self._teller is not None:
            self._teller.stop()

    def _work(self, form: Form, teller: Teller) -> None:
        try:
            self._compare(form.checked(), teller)
        except Stopped:
            teller.show(status="stopped", preview=None)
        except Exception as error:
            said = sentence_of(error)
            teller.show(status=said or f"{type(error).__name__}: {error}. This is a defect.", failed=True)
        finally:
            teller.told.put(None)

    def _compare(self, checked: Checked, teller: Teller) -> None:
        teller.tell(status="loading the model")
        pipe = self._pipe(checked)
        folder = self._folder()
        teller.folder, teller.ending = folder, checked.asked.endings[0]
        teller.rate = checked.settings.fps or checked.asked.rate
        teller.steps = checked.settings.num_inference_steps
        if checked.target is not None:
            checked = self._tuned(pipe, checked, folder, teller)
        teller.tell(recipe=shown_recipe(checked.recipe_name, checked.recipe, checked.changed))
        compared = compare_runs(pipe, checked.settings, checked.recipe, watcher=teller)
        model, name = checked.asked.loading.model, checked.recipe_name
        report = report_of(
            pipe, model, checked.settings, name, checked.recipe, checked.changed, compared, checked.command,
            teller.files,
        )  # fmt: skip
        self._show(report, compared, folder, teller)

    @staticmethod
    def _show(report: Report, compared: Compared, folder: Path, teller: Teller) -> None:
        teller.tell(
            status=f"done; everything is in {folder}",
            preview=None,
            numbers=numbers(report),
            verdict=tuple(verdict(report)),
            summary=str(summarize([compared.accelerated.patch])),
            recipe=report.recipe_text,
            page=write_report(report, folder / "report.html"),
        )

    def _tuned(self, pipe: Any, checked: Checked, folder: Path, teller: Teller) -> Checked:
        """The form with the recipe that meets its target, chosen on its seed and checked on the next.

        Raises:
            Mistake: if no recipe meets it.
        """
        from accel.tuning.search import tune
        from accel.tuning.write import write_recipe, write_tried

        assert checked.target is not None
        prompts = [checked.settings.prompt] * 2

        def progress(text: str, share: float | None = None) -> None:
            teller.tell(status=f"looking for a recipe: {text}")

        found = tune(
            pipe, prompts, checked.target, settings=checked.settings, kept_aside=1, folder=folder / "tune",
            progress=progress,
        )  # fmt: skip
        path = write_recipe(found, folder / "tuned.yaml")
        write_tried(found, folder)
        command = (*checked.command, "--recipe", str(path))
        return replace(checked, recipe=found.recipe, recipe_name=str(path), changed=False, command=command)

    def _pipe(self, checked: Checked) -> Any:
        """The pipeline, kept for the next run that asks for the same."""
        loading = checked.asked.loading
        kind = checked.asked.pipeline
        if self._loaded is None or self._loaded[0] != loading or type(self._loaded[1]) is not kind:
            self._loaded = None  # Frees its memory before another one needs it.
            self._loaded = loading, checked.asked.load()
            self._loaded[1].set_progress_bar_config(disable=True)
        return self._loaded[1]

    def _folder(self) -> Path:
        """A new folder for a run."""
        for number in range(1, 100_000):
            folder = self.output / f"run-{number:03d}"
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
        raise Mistake(f"{self.output}: holds too many runs")


class Teller(Watcher):
    """Puts what happens into the queue `told`.

    Attributes:
        stopped: nobody reads any more; the next step ends the run.
        files: results that are written.
    """

    def __init__(self, told: queue.SimpleQueue[Shown | None]) -> None:
        self.told = told
        self.shown = Shown("")
        self.stopped = False
        self.files: dict[str, Path] = {}
        self.folder, self.ending, self.rate = Path(), ".mp4", 8.0
        self.steps: int | None = None
        self.name, self.run, self.began = "", "", 0.0

    def tell(self, **changes: Any) -> None:
        """Tell what is new.

        Raises:
            Stopped: if nobody wants to know.
        """
        if self.stopped:
            raise Stopped
        self.show(**changes)

    def show(self, **changes: Any) -> None:
        """The same, whether anybody wants to know or not."""
        self.shown = replace(self.shown, **changes)
        self.told.put(self.shown)

    def stop(self) -> None:
        """End the run at its next step."""
        self.stopped = True
        self.show(status="stopping at the next step")

    def begins(self, name: str, number: int, of: int) -> None:
        self.name = name
        self.run, self.began = f"{number} of {of}: {name}", time.perf_counter()
        self.tell(status=self.run)

    def step(self, step: int, latents: Tensor) -> None:
        status = f"{self.run}, step {step + 1}"
        if self.steps and self.name != WARM_UP:
            left = (time.perf_counter() - self.began) / (step + 1) * max(self.steps - step - 1, 0)
            status += f" of {self.steps}, about {left:.0f} s left"
        self.tell(status=status, preview=preview(latents))

    def made(self, name: str, run: Any) -> None:
        if name in SHOWN:
            path = self.folder / f"{name}{self.ending}"
            self.files[name] = write_result(run.frames, path, self.rate)
            self.tell(**{name: path})


def numbers(report: Report) -> tuple[Row, ...]:
    """The numbers of a comparison as rows of text, as `accel compare --json` prints them."""
    facts = report_as_dict(report)
    rows: list[Row] = []
    for part, label in (("attention", "attention"), ("transformer", "transformer"), ("total", "end to end")):
        dense, fast = (facts["runs"][run][f"seconds_{part}"] for run in SHOWN)
        rows.append((f"{label}, s", f"{dense:.2f}", f"{fast:.2f}", f"{facts['speedup'][part]:.2f}x"))
    found = facts["quality"]["accelerated"]
    scores = {
        "SSIM": (found["ssim"], 4),
        "PSNR, dB": (found["psnr_mean_over_frames"], 2),
        "latent error": (found["latent_relative_error"], 4),
        "density": (facts["density"]["with_dense_as_1"], 3),
    }
    for label, (value, digits) in scores.items():
        rows.append((label, "", "-" if value is None else f"{value:.{digits}f}", ""))
    return tuple(rows)
