"""accel compare: dense and accelerated from the same seed, with a page that shows quality beside speed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from accel.accelerate import plan_for
from accel.apply.plan import Plan
from accel.apply.summary import summarize
from accel.cli import options
from accel.cli.run_table import print_runs
from accel.cli.terminal import say
from accel.comparison import Report, Run, report_as_dict, write_report
from accel.comparison.runs import Compared, compare_runs, density_map
from accel.load.lora import Lora, load_loras
from accel.load.pipeline import load_pipeline
from accel.machine.versions import device_name, versions
from accel.patches.models import supported_models
from accel.recipe.choose import default_recipe_name
from accel.recipe.files import recipe_data, recipe_text
from accel.run.generate import Generated, GenerateSettings
from accel.run.video import write_video


def compare(
    prompt: options.Prompt = None,
    model: options.ModelName = "demo",
    recipe: options.RecipeName = None,
    changes: options.Changes = None,
    lora: options.Loras = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: options.Frames = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    negative_prompt: options.Negative = None,
    seed: options.Seed = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the videos and report.html.")
    ] = Path("out"),
    placing: Annotated[
        bool,
        typer.Option(help="Also run the noise floor and another seed, so that the scores can be placed."),
    ] = True,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Compare an accelerated pipeline with the dense one: speed and quality, from its tensors."""
    settings = options.settings_for(
        model, prompt, height=height, width=width, num_frames=frames, num_inference_steps=steps,
        guidance_scale=guidance, negative_prompt=negative_prompt, seed=seed,
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    options.require_writable("--output", output / "report.html", (".html",))
    pipe = load_pipeline(model, device)
    load_loras(pipe, [Lora.parse(text) for text in lora or ()])
    plan = plan_for(pipe, recipe, **options.parse_changes(changes))
    name = recipe or default_recipe_name(supported_models(pipe))
    compared = compare_runs(pipe, settings, plan.recipe, placing=placing)
    videos = _write_videos(compared, output, model)
    report = _report(pipe, model, settings, name, plan, bool(changes), compared, videos)
    page = write_report(report, output / "report.html")
    if as_json:
        print(json.dumps({**report_as_dict(report), "page": str(page)}))
        return
    print_runs({"dense": compared.dense, "accelerated": compared.accelerated})
    for comparison in compared.comparisons:
        say(_line(comparison))
    say(f"wrote {page}, {videos['accelerated']} and {videos['dense']}")


def _write_videos(compared: Compared, output: Path, model: str) -> dict[str, Path]:
    name, fps = options.short_name(model), options.frames_per_second(model)
    return {
        "dense": write_video(compared.dense.frames, output / f"{name}-dense.mp4", fps),
        "accelerated": write_video(compared.accelerated.frames, output / f"{name}.mp4", fps),
    }


def _report(
    pipe: Any, model: str, settings: GenerateSettings, recipe_name: str, plan: Plan, changed: bool,
    compared: Compared, videos: dict[str, Path],
) -> Report:  # fmt: skip
    patch = compared.accelerated.patch
    account = summarize([patch])
    return Report(
        title=f"{model}: dense and accelerated",
        prompt=settings.prompt,
        model=f"{type(pipe).__name__}, {model}",
        recipe_name=f"{recipe_name}, changed" if changed else recipe_name,
        recipe_text=_recipe_yaml(plan) if changed else recipe_text(recipe_name)[0],
        dense=_run("dense", compared.dense, videos["dense"]),
        accelerated=_run("accelerated", compared.accelerated, videos["accelerated"]),
        comparisons=compared.comparisons,
        density_by_layer_and_step=density_map(patch),
        layer_names=tuple(seat.site.full_name for seat in patch.seats) if density_map(patch) else (),
        dense_reasons=account.dense_reasons,
        sparse_calls=sum(site.sparse_calls for site in account.sites),
        versions=versions(),
        settings=_settings(pipe, settings, compared.dense),
        command=shlex.join(["accel", *sys.argv[1:]]),
    )


def _run(label: str, run: Generated, video: Path) -> Run:
    seconds = run.seconds
    return Run(label, seconds.total, seconds.transformer, seconds.attention, video)


def _recipe_yaml(plan: Plan) -> str:
    return yaml.safe_dump(recipe_data(plan.recipe), sort_keys=False)


def _settings(pipe: Any, settings: GenerateSettings, run: Generated) -> dict[str, str]:
    frames, height, width, _ = run.frames.shape
    chosen = {name: value for name, value in vars(settings).items() if value is not None and name != "prompt"}
    return {
        "device": device_name(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "video": f"{width} x {height}, {frames} frames",
        **{name.replace("_", " "): str(value) for name, value in chosen.items()},
    }


def _line(comparison: Any) -> str:
    quality = comparison.quality
    psnr = "identical" if quality.identical else f"{quality.psnr:.2f} dB"
    error = comparison.latent_relative_error
    latent = "" if error is None else f", latent relative error {error:.4f}"
    return f"{comparison.label}: PSNR {psnr} (mean over frames), SSIM {quality.ssim:.4f}{latent}"
