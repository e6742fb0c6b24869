"""accel compare: dense and accelerated from the same seed, with a page that shows quality beside speed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.cli import options
from accel.run.settings import GenerateSettings, LoadSettings

if TYPE_CHECKING:
    from accel.comparison import Report
    from accel.comparison.runs import Compared


@options.with_options_of(chosen=GenerateSettings, loading=LoadSettings)
def compare(
    chosen: dict[str, Any],
    loading: dict[str, Any],
    recipe: options.RecipeName = None,
    changes: options.Changes = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results and report.html.")
    ] = Path("out"),
    placing: Annotated[
        bool,
        typer.Option(help="Also run another seed, as a scale for the scores."),
    ] = True,
    floor: Annotated[
        bool,
        typer.Option("--floor", help="Also run dense under another exact backend, which may take long."),
    ] = False,
    preview: options.Preview = True,
    as_json: options.Json = False,
) -> None:
    """Compare an accelerated pipeline with the dense one: speed and quality, from its tensors."""
    from accel.cli import asked as checks

    load = checks.loading_of(loading)
    settings = checks.settings_of(load.model, chosen)
    asked = checks.asked_of(load, settings)
    name, plan, _ = checks.planned(load.model, recipe, changes)
    options.require_folder("--output", output)

    from accel.cli.progress import named_bars
    from accel.cli.run_table import print_runs
    from accel.cli.terminal import say
    from accel.comparison.from_runs import report_of
    from accel.comparison.runs import compare_runs
    from accel.comparison.words import verdict

    pipe = asked.load()
    with named_bars(pipe, preview and not as_json) as bars:
        compared = compare_runs(pipe, settings, plan.recipe, placing=placing, floor=floor, watcher=bars)
    stem = output / (Path(load.model).name or "result")
    files = {
        "accelerated": stem.with_name(f"{stem.name}{asked.endings[0]}"),
        "dense": stem.with_name(f"{stem.name}-dense{asked.endings[0]}"),
    }
    make = partial(
        report_of,
        pipe,
        load.model,
        settings,
        name,
        plan.recipe,
        bool(changes),
        compared,
        ["accel", *sys.argv[1:]],
    )
    try:
        if not as_json:
            print_runs({"dense": compared.dense, "accelerated": compared.accelerated})
            for comparison in compared.comparisons:
                say(_line(comparison))
            for sentence in verdict(make({})):
                say(sentence)
    finally:
        # Output that nobody reads any more does not cost the runs.
        _write(compared, files, settings.fps or asked.rate, output / "report.html", make, as_json)


def _write(
    compared: Compared,
    files: dict[str, Path],
    fps: float,
    page: Path,
    make: Callable[[dict[str, Path]], Report],
    as_json: bool,
) -> None:
    """Write both results and the page, and say where; with `as_json`, print all numbers.

    The numbers are printed even if nothing can be written any more.
    """
    from accel.cli.terminal import say
    from accel.comparison import report_as_dict, write_report
    from accel.run.video import write_result

    written: dict[str, Path] = {}
    page_written: Path | None = None
    try:
        for name, path in files.items():
            written[name] = write_result(getattr(compared, name).frames, path, fps)
        page_written = write_report(make(written), page)
        if not as_json:
            say(f"wrote {page_written}, {files['accelerated']} and {files['dense']}")
    finally:
        if as_json:
            facts = report_as_dict(make(written))
            print(json.dumps({**facts, "page": None if page_written is None else str(page_written)}))


def _line(comparison: Any) -> str:
    quality = comparison.quality
    psnr = "identical" if quality.identical else f"{quality.psnr:.2f} dB"
    error = comparison.latent_relative_error
    latent = "" if error is None else f", latent relative error {error:.4f}"
    return f"{comparison.label}: PSNR {psnr} (mean over frames), SSIM {quality.ssim:.4f}{latent}"
