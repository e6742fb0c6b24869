"""What each method costs in quality on the embedded demo, end to end, at equal density, schedule and seed.

    python -m scripts.quality.videos docs/benchmarks/policies-end-to-end.json
    python -m scripts.quality.videos out.json --pair 0 --size 128 --run default@0.4 --run hip@0.4

A pair is a prompt and a seed, both counted from 0; those from 8 on are held out (`prompts.py`). Runs in the
file are not repeated. The forwards of the dense steps are played back from the dense run, and the VAE decodes
in bfloat16 for every method (62 dB from float32, on the first latent step); both save a third of the time.
# About the density of radial's usual mask on the demo; the others get its exact density.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from accel.apply.summary import summarize
from accel.comparison.quality import measure_quality, relative_error
from accel.demo.paths import DEMO_SETTINGS
from accel.load.pipeline import load_pipeline
from accel.machine.versions import device_name, versions
from accel.patches.grid import TokenGrid
from accel.policies.policy import Policy
from accel.recipe.recipe import Recipe, Rule
from accel.recipe.schedule import Schedule
from accel.run.generate import Generated, generate
from accel.run.settings import GenerateSettings
from accel.tuning.playback import Playback
from scripts.quality.methods import METHODS, density_of, radial
from scripts.quality.prompts import demo_settings, prompt_of
from scripts.row_file import read_table, write_table

DENSE_STEPS = 0.25
# The density of radial's usual mask on the demo; the one it really has is what the others get there.
RADIAL = 0.58
# Blocks by the pixels of a side: a frame has about the same number of them.
BLOCKS = {192: (64, 64), 128: (32, 32)}


@dataclass(frozen=True)
class Row:
    """One method on one pair. `wanted` is the density asked for, `density` that of the sparse calls."""

    method: str
    wanted: float
    size: int
    prompt: int
    seed: int
    density: float
    psnr: float
    ssim: float
    latent_error: float


def main(
    out: Annotated[Path, typer.Argument(help="JSON file to write, or to continue.")],
    pair: Annotated[list[int] | None, typer.Option(help="Number of a prompt and seed; repeat.")] = None,
    size: Annotated[int, typer.Option(help="Pixels of a side: 192, the demo's own, or 128.")] = 192,
    run: Annotated[list[str] | None, typer.Option(help="Only METHOD@DENSITY; repeat.")] = None,
) -> None:
    """Run every method on the demo against dense, and write what it cost."""
    warnings.filterwarnings("ignore", message="radial: decay")
    pipe = load_pipeline("demo")
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.to(torch.bfloat16)
    rows = [Row(**row) for row in read_table(out)]
    every = [f"{name}@{wanted}" for wanted in (RADIAL, 0.4, 0.25) for name in METHODS]
    for number in pair or range(3):
        done = {(row.method, row.wanted) for row in rows if (row.prompt, row.size) == (number, size)}
        cells = [(name, float(wanted)) for name, _, wanted in (text.rpartition("@") for text in run or every)]
        for row in runs(pipe, number, size, [cell for cell in cells if cell not in done]):
            rows.append(row)
            print(row, flush=True)
            write(out, rows)


def runs(pipe: Any, number: int, size: int, todo: list[tuple[str, float]]) -> Iterator[Row]:
    """The methods at their densities on one pair."""
    if not todo:
        return
    settings = GenerateSettings(prompt=prompt_of(number), seed=number, **demo_settings(size))
    block, grid = BLOCKS[size], TokenGrid(9, size // 8, size // 8)
    playback, forwards = Playback(), int(DENSE_STEPS * DEMO_SETTINGS["num_inference_steps"]) * 2
    with playback.recording(pipe.transformer, forwards):
        dense = generate(pipe, settings)
    for name, wanted in todo:
        density = density_of(radial(RADIAL, block, grid), grid) if wanted == RADIAL else wanted
        with playback.playing(pipe.transformer, forwards):
            sparse = generate(pipe, settings, recipe_of(METHODS[name](density, block, grid)))
        yield compare(sparse, dense, name, wanted, size, number)


def compare(run: Generated, dense: Generated, name: str, wanted: float, size: int, number: int) -> Row:
    assert run.latents is not None and dense.latents is not None
    quality = measure_quality(run.frames.float(), dense.frames.float())
    density = summarize([run.patch]).sparse_density
    assert density is not None
    error = relative_error(run.latents, dense.latents)
    return Row(name, wanted, size, number, number, density, quality.psnr, quality.ssim, error)


def recipe_of(policy: Policy) -> Recipe:
    """A recipe around any policy, including those that YAML cannot name."""
    return Recipe(rules=(Rule(match="*", policy=policy),), schedule=Schedule(dense_steps=DENSE_STEPS))


def write(out: Path, rows: list[Row]) -> None:
    machine = {"device": device_name("cpu"), **versions()}
    settings = {"dense_steps": DENSE_STEPS, "block_sizes": BLOCKS, **DEMO_SETTINGS}
    write_table(out, map(asdict, rows), {"machine": machine, "settings": settings})


if __name__ == "__main__":
    typer.run(main)
