"""accel generate: make a video with an accelerated pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from accel.accelerate import plan_for
from accel.cli import options
from accel.cli.generate_many import batch_of, generate_many
from accel.cli.run_table import print_runs, runs_as_dict
from accel.cli.terminal import say
from accel.load.lora import Lora, load_loras
from accel.load.pipeline import load_pipeline
from accel.mistake import Mistake
from accel.recipe.recipe import DENSE, Recipe
from accel.run.generate import Generated, GenerateSettings
from accel.run.generate import generate as run
from accel.run.video import write_video


def generate(
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
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Run dense too, with the same seed, and say how much faster it was."),
    ] = False,
    only_dense: Annotated[bool, typer.Option("--only-dense", help="Run dense and nothing else.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .mp4 (or .gif) to write.")] = Path(
        "video.mp4"
    ),
    prompts: Annotated[
        Path | None,
        typer.Option(help="Many videos: a JSON Lines file of prompts, resumable; see docs/multi-gpu.md."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --prompts: the folder to write to.")] = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Generate a video or an image, accelerated by a recipe, and say what it took.

    With --prompts, many.     `accelerate launch -m accel generate --prompts ...` shares them between GPUs.
    """
    chosen = {
        "height": height, "width": width, "num_frames": frames, "num_inference_steps": steps,
        "guidance_scale": guidance, "negative_prompt": negative_prompt, "seed": seed,
    }  # fmt: skip
    if prompts is not None:
        if prompt is not None or out is None or dense:
            raise Mistake("--prompts needs --out, and goes with neither a prompt nor --dense")
        defaults = options.choices_for(model, **chosen)
        asked = batch_of(model, recipe, changes, lora, out, only_dense=only_dense)
        raise typer.Exit(generate_many(prompts, defaults, asked, device, as_json))
    settings = options.settings_for(model, prompt, **chosen)
    options.require_writable("--output", output, (".mp4", ".gif"))
    pipe = load_pipeline(model, device)
    load_loras(pipe, [Lora.parse(text) for text in lora or ()])
    plan = plan_for(pipe, recipe, **options.parse_changes(changes))
    runs = _run(pipe, settings, plan.recipe, dense=dense or only_dense, sparse=not only_dense)
    written = _write(runs, output, options.frames_per_second(model))
    if as_json:
        print(
            json.dumps({**runs_as_dict(runs), "files": {name: str(path) for name, path in written.items()}})
        )
    else:
        print_runs(runs)
        for path in written.values():
            say(f"wrote {path}")


def _run(
    pipe: Any, settings: GenerateSettings, recipe: Recipe, *, dense: bool, sparse: bool
) -> dict[str, Generated]:
    recipes = {"dense": DENSE} if dense else {}
    if sparse:
        recipes["accelerated"] = recipe
    return {name: run(pipe, settings, recipe) for name, recipe in recipes.items()}


def _write(runs: dict[str, Generated], output: Path, fps: int) -> dict[str, Path]:
    """The main run goes to `output`; a dense one beside it goes to NAME-dense."""
    paths = {name: output for name in runs}
    if len(runs) > 1:
        paths["dense"] = output.with_stem(f"{output.stem}-dense")
    return {name: write_video(run.frames, paths[name], fps) for name, run in runs.items()}
