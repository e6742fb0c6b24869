"""Session: one run at a time, dense and accelerated, reported step by step; knows nothing of web pages."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from accel.apply.summary import summarize
from accel.cli.app import sentence_of
from accel.comparison import Report, write_report
from accel.comparison.from_runs import report_of, shown_recipe
from accel.comparison.runs import Compared, compare_runs
from accel.comparison.words import verdict
from accel.mistake import Mistake
from accel.run.settings import LoadSettings
from accel.ui.form import Checked, Form
from accel.ui.numbers import numbers
from accel.ui.reporter import Reporter, Shown, Stopped

BUSY = "another run is in progress: one at a time"


class Session:
    """Runs forms, one at a time, and writes into one folder.

    Args:
        output: each run gets its own folder in it.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._one = threading.Lock()
        self._loaded: tuple[LoadSettings, Any] | None = None
        self._reporter: Reporter | None = None

    def run(self, form: Form) -> Iterator[Shown]:
        """What to show, repeatedly until the run is over. Closing the iterator stops the run."""
        if not self._one.acquire(blocking=False):
            yield Shown(BUSY, failed=True)
            return
        updates: queue.SimpleQueue[Shown | None] = queue.SimpleQueue()
        reporter = self._reporter = Reporter(updates)
        thread = threading.Thread(target=self._work, args=(form, reporter), daemon=True)
        thread.start()
        try:
            while (shown := updates.get()) is not None:
                yield shown
        finally:
            reporter.stopped = True
            thread.join()
            self._one.release()

    def stop(self) -> None:
        """End the current run, if there is one, at its next step."""
        if self._reporter is not None:
            self._reporter.stop()

    def _work(self, form: Form, reporter: Reporter) -> None:
        try:
            self._compare(form.checked(), reporter)
        except Stopped:
            reporter.show(status="stopped", preview=None)
        except Exception as error:
            said = sentence_of(error)
            reporter.show(status=said or f"{type(error).__name__}: {error}. This is a defect.", failed=True)
        finally:
            reporter.updates.put(None)

    def _compare(self, checked: Checked, reporter: Reporter) -> None:
        reporter.report(status="loading the model")
        pipe = self._pipe(checked)
        folder = self._folder()
        reporter.folder, reporter.ending = folder, checked.asked.endings[0]
        reporter.rate = checked.settings.fps or checked.asked.rate
        reporter.steps = checked.settings.num_inference_steps
        if checked.target is not None:
            checked = self._tuned(pipe, checked, folder, reporter)
        reporter.report(recipe=shown_recipe(checked.recipe_name, checked.recipe, checked.changed))
        compared = compare_runs(pipe, checked.settings, checked.recipe, watcher=reporter)
        model, name = checked.asked.loading.model, checked.recipe_name
        report = report_of(
            pipe, model, checked.settings, name, checked.recipe, checked.changed, compared, checked.command,
            reporter.files,
        )  # fmt: skip
        self._show(report, compared, folder, reporter)

    @staticmethod
    def _show(report: Report, compared: Compared, folder: Path, reporter: Reporter) -> None:
        reporter.report(
            status=f"done; everything is in {folder}",
            preview=None,
            numbers=numbers(
                compared.dense.seconds,
                compared.accelerated.seconds,
                report.comparison("accelerated"),
                report.density(),
            ),
            verdict=tuple(verdict(report)),
            summary=str(summarize([compared.accelerated.patch])),
            recipe=report.recipe_text,
            page=write_report(report, folder / "report.html"),
        )

    def _tuned(self, pipe: Any, checked: Checked, folder: Path, reporter: Reporter) -> Checked:
        """The form with the recipe that meets its target, chosen on its seed and checked on the next.

        Raises:
            Mistake: if no recipe meets it.
        """
        from accel.tuning.search import tune
        from accel.tuning.write import write_recipe, write_tried

        assert checked.target is not None
        prompts = [checked.settings.prompt] * 2

        def progress(text: str, share: float | None = None) -> None:
            reporter.report(status=f"looking for a recipe: {text}")

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
