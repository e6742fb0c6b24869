"""accel generate: make a video or an image with an accelerated pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.cli import options
from accel.mistake import Mistake
from accel.run.settings import GenerateSettings, LoadSettings

if TYPE_CHECKING:
    from accel.run.generate import Generated


@options.with_options_of(chosen=GenerateSettings, loading=LoadSettings)
def generate(
    chosen: dict[str, Any],
    loading: dict[str, Any],
    recipe: options.RecipeName = None,
    changes: options.Changes = None,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Also run dense with the same seed, and say how much faster it was."),
    ] = False,
    only_dense: Annotated[bool, typer.Option("--only-dense", help="Run dense only.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .mp4 or .gif to write, or the .png of an image."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A JSON Lines file of many prompts, resumable; see docs/multi-gpu.md."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --prompts: the folder to write to.")] = None,
    preview: options.Preview = True,
    as_json: options.Json = False,
) -> None:
    """Generate a video or an image, accelerated by a recipe, and say what it took.

    With --prompts, many. `accelerate launch -m accel generate --prompts ...` shares them between GPUs.
    """
    options.require_one_way(dense, only_dense, recipe, changes)
    _require_one_place(chosen, dense, output, prompts, out)
    from accel.cli import asked as checks

    load = checks.loading_of(loading)
    if prompts is not None and out is not None:
        from accel.cli.commands.generate_many import Many, generate_many

        many = Many(prompts, chosen, load, recipe, changes, out, only_dense)
        raise typer.Exit(generate_many(many, as_json))
    settings = checks.settings_of(load.model, chosen)
    asked = checks.asked_of(load, settings)
    path = output or Path(f"{'image' if asked.makes_images else 'video'}{asked.endings[0]}")
    options.require_writable("--output", path, asked.endings)
    found = None if only_dense else checks.planned(load.model, recipe, changes)[1].recipe

    from accel.cli.progress import named_bars
    from accel.cli.run_table import print_runs, runs_as_dict
    from accel.recipe.recipe import DENSE, dense_like
    from accel.run.arms import Arm, run_arms, warm_up

    pipe = asked.load()
    fast = None if found is None else Arm(settings, found)
    arms = warm_up(fast) if fast and dense else {}
    if dense or only_dense:
        arms["dense"] = Arm(settings, DENSE if found is None else dense_like(found))
    if fast:
        arms["accelerated"] = fast
    with named_bars(pipe, preview and not as_json) as bars:
        runs = run_arms(pipe, arms, bars)
    try:
        if not as_json:
            print_runs(runs)
    finally:
        # Output that nobody reads any more does not cost the run.
        _write(runs, path, settings.fps or asked.rate, runs_as_dict(runs) if as_json else None)


def _require_one_place(
    chosen: dict[str, Any],
    dense: bool,
    output: Path | None,
    prompts: Path | None,
    out: Path | None,
) -> None:
    """Refuse options that contradict each other about what is made and where it is written.

    Raises:
        Mistake: says which.
    """
    if prompts is None and out is not None:
        raise Mistake(f"--out {out} is the folder for --prompts; a single result is written to --output FILE")
    if prompts is None:
        return
    if out is None:
        raise Mistake("--prompts needs --out, the folder to write to")
    wrong = ["a prompt"] if "prompt" in chosen else []
    wrong += ["--output"] if output is not None else []
    wrong += ["--dense"] if dense else []
    if wrong:
        raise Mistake(f"--prompts takes --out, and not {' or '.join(wrong)}")


def _write(runs: dict[str, Generated], output: Path, fps: float, facts: dict[str, Any] | None) -> None:
    """Write the main run to `output` and a dense one to NAME-dense next to it; say where, or print the facts.

    The facts are printed even if nothing can be written any more.
    """
    from accel.cli.terminal import say
    from accel.run.video import write_result

    files: dict[str, str | None] = dict.fromkeys(runs)
    try:
        for name, run in runs.items():
            beside = name == "dense" and len(runs) > 1
            path = output.with_stem(f"{output.stem}-dense") if beside else output
            files[name] = str(write_result(run.frames, path, fps))
    finally:
        if facts is not None:
            print(json.dumps({**facts, "files": files}))
        for written in files.values() if facts is None else ():
            if written is not None:
                say(f"wrote {written}")
