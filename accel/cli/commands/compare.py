"""accel compare: dense and accelerated from the same seed, with a page that shows quality beside speed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.cli import options
from accel.run.settings import GenerateSettings, LoadSettings

if TYPE_CHECKING:
    from accel.apply.patch import Patch
    from accel.apply.summary import Summary
    from accel.comparison import Report, Run
    from accel.comparison.pays import AttentionTime
    from accel.comparison.runs import Compared
    from accel.recipe.recipe import Recipe
    from accel.run.generate import Generated


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
        typer.Option(help="Also run another seed, so that the scores can be placed."),
    ] = True,
    floor: Annotated[
        bool,
        typer.Option("--floor", help="Also run dense under another exact backend, which may take long."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Compare an accelerated pipeline with the dense one: speed and quality, from its tensors."""
    from accel.cli import asked as checks

    load = checks.loading_of(loading)
    settings = checks.settings_of(load.model, chosen)
    asked = checks.asked_of(load, settings)
    name, found = checks.recipe_of(load.model, recipe, changes)
    options.require_folder("--output", output)

    from accel.cli.run_table import print_runs
    from accel.cli.terminal import say
    from accel.comparison.runs import compare_runs
    from accel.comparison.words import verdict
    from accel.run.watcher import NamedBars

    pipe = asked.load()
    bars = NamedBars(pipe)
    compared = compare_runs(pipe, settings, found, placing=placing, floor=floor, watcher=bars)
    bars.close()
    stem = output / (Path(load.model).name or "result")
    files = {
        "accelerated": stem.with_name(f"{stem.name}{asked.endings[0]}"),
        "dense": stem.with_name(f"{stem.name}-dense{asked.endings[0]}"),
    }
    make = partial(_report, pipe, load.model, settings, name, found, bool(changes), compared)
    if not as_json:
        print_runs({"dense": compared.dense, "accelerated": compared.accelerated})
        for comparison in compared.comparisons:
            say(_line(comparison))
        for sentence in verdict(make({})):
            say(sentence)
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


def _report(
    pipe: Any, model: str, settings: GenerateSettings, recipe_name: str, recipe: Recipe, changed: bool,
    compared: Compared, files: dict[str, Path],
) -> Report:  # fmt: skip
    from accel.apply.summary import summarize
    from accel.comparison import Report
    from accel.comparison.runs import density_map
    from accel.machine.versions import versions
    from accel.recipe.files import recipe_text

    patch = compared.accelerated.patch
    account = summarize([patch])
    return Report(
        title=f"{model}: dense and accelerated",
        prompt=settings.prompt,
        model=f"{type(pipe).__name__}, {model}",
        recipe_name=f"{recipe_name}, changed" if changed else recipe_name,
        recipe_text=_recipe_yaml(recipe) if changed else recipe_text(recipe_name)[0],
        dense=_run("dense", compared.dense, files.get("dense")),
        accelerated=_run("accelerated", compared.accelerated, files.get("accelerated")),
        comparisons=compared.comparisons,
        density_by_layer_and_step=density_map(patch),
        layer_names=tuple(one.site.full_name for one in patch.installed) if density_map(patch) else (),
        dense_reasons=account.dense_reasons,
        sparse_calls=sum(site.sparse_calls for site in account.sites),
        versions=versions(),
        settings=_settings(pipe, settings, compared.dense),
        command=shlex.join(["accel", *sys.argv[1:]]),
        anchors=compared.anchors,
        worst=compared.worst,
        attention_time=_attention_time(patch, account),
    )


def _attention_time(patch: Patch, account: Summary) -> AttentionTime | None:
    from accel.comparison.pays import AttentionTime

    saving = account.sparse_saving
    if saving is None or account.sparse_density is None:
        return None
    tokens = max(form.shape[1] for one in patch.installed for form in one.attention.spent.of("sparse"))
    return AttentionTime(tokens, account.sparse_density, saving.sparse, saving.dense)


def _run(label: str, run: Generated, video: Path | None) -> Run:
    from accel.comparison import Run

    seconds = run.seconds
    return Run(label, seconds.total, seconds.transformer, seconds.attention, video)


def _recipe_yaml(recipe: Recipe) -> str:
    import yaml

    from accel.recipe.files import recipe_data

    return yaml.safe_dump(recipe_data(recipe), sort_keys=False)


def _settings(pipe: Any, settings: GenerateSettings, run: Generated) -> dict[str, str]:
    from accel.machine.versions import device_name

    frames, height, width, _ = run.frames.shape
    kind, count = ("image", "") if frames == 1 else ("video", f", {frames} frames")
    chosen = {
        name: value for name, value in vars(settings).items() if value not in (None, ()) and name != "prompt"
    }
    return {
        "device": device_name(getattr(pipe, "_execution_device", pipe.device)),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        kind: f"{width} x {height}{count}",
        **{name.replace("_", " "): str(value) for name, value in chosen.items()},
    }


def _line(comparison: Any) -> str:
    quality = comparison.quality
    psnr = "identical" if quality.identical else f"{quality.psnr:.2f} dB"
    error = comparison.latent_relative_error
    latent = "" if error is None else f", latent relative error {error:.4f}"
    return f"{comparison.label}: PSNR {psnr} (mean over frames), SSIM {quality.ssim:.4f}{latent}"
