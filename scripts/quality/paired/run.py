"""Compare settings with dense on the embedded demo, paired by prompt and seed, at executed work.

    python -m scripts.quality.paired.run out.json --steps 8 --prompts 16-27 --setting today --setting default
    python -m scripts.quality.paired.run out.json --steps 8 --prompts 1,3 --setting today --forced

A setting is a name in `settings.py` or `published.py`, or a recipe file. A prompt's number is also its seed;
choose settings on 0 to 7 and report on 16 and up (`prompts.py`). Rows in the file are not run again. Dense
runs are kept in a folder; forwards that every setting leaves dense are played back from there, and still
count as work.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from accel.accelerate import accelerated, patches_of
from accel.comparison.quality import measure_quality, relative_error
from accel.demo.paths import DEMO_SETTINGS
from accel.load.pipeline import load_pipeline
from accel.recipe.compensate import Compensate
from accel.recipe.files import build_recipe, load_recipe, recipe_data
from accel.recipe.recipe import Recipe
from accel.recipe.schedule import whole
from accel.tuning.playback import Playback, work_of
from accel.tuning.trajectory import Trajectory, forced_errors, record
from scripts.quality.paired.published import PUBLISHED
from scripts.quality.paired.settings import SETTINGS
from scripts.quality.prompts import demo_settings, prompt_of
from scripts.row_file import read_table, write_table

PASSES = 2
ALL = {**SETTINGS, **PUBLISHED}
KEPT_SHARE = 0.5  # of the schedule: no setting has more dense first steps


@dataclass(frozen=True)
class Row:
    """One setting on one prompt.

    Args:
        work: executed blocks / those of dense attention over the whole schedule; dense steps included.
        forced: relative error of the guided velocity, one for each sparse step; None if not run.
        latent_error: of the whole generation; None if not run.
        ssim: of the whole video; None if not run.
        flicker: what it adds to the dense video's, as a share of that; None if not run.
    """

    setting: str
    steps: int
    prompt: int
    work: float
    forced: tuple[float, ...] | None = None
    latent_error: float | None = None
    ssim: float | None = None
    flicker: float | None = None

    @property
    def forced_rms(self) -> float | None:
        if not self.forced:
            return None
        return math.sqrt(sum(error**2 for error in self.forced) / len(self.forced))


@dataclass
class Bench:
    """The demo at one size and number of steps, with its dense runs in a folder."""

    pipe: Any
    folder: Path
    steps: int
    size: int
    guidance: float

    def dense(self, prompt: int) -> tuple[Trajectory, Playback]:
        """The dense run of a prompt, from the folder if it has been made."""
        file = self.folder / f"{self.size}-{self.steps}-{self.guidance:g}-{prompt}.pt"
        playback = Playback()
        if file.exists():
            kept = torch.load(file)
            playback.outputs = kept["outputs"]
            return Trajectory(tuple(kept["velocities"]), kept["latents"]), playback
        forwards = int(KEPT_SHARE * self.steps) * self.passes
        with playback.recording(self.pipe.transformer, forwards):
            dense = record(self.pipe, lambda: self.run(prompt))
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {
            "outputs": playback.outputs,
            "velocities": list(dense.velocities),
            "latents": dense.latents,
        }
        torch.save(kept, file)
        return dense, playback

    @property
    def passes(self) -> int:
        return PASSES if self.guidance > 1 else 1

    def run(self, prompt: int) -> Tensor:
        """The last latents of a run of the pipeline in its present state."""
        settings = demo_settings(self.size)
        settings |= {"num_inference_steps": self.steps, "guidance_scale": self.guidance}
        generator = torch.Generator().manual_seed(prompt)
        with torch.no_grad():
            return self.pipe(prompt_of(prompt), **settings, generator=generator, output_type="latent").frames

    def measure(self, name: str, recipe: Recipe, prompt: int, forced: bool, pixels: bool) -> Row:
        dense, playback = self.dense(prompt)
        first = whole(recipe.schedule.dense_steps, self.steps)
        # Compensation is captured at the last dense step, which therefore has to run.
        skipped = max(0, first - 1 if isinstance(recipe.compensate, Compensate) else first) * self.passes
        errors: tuple[float, ...] | None = None
        latents = None
        with (
            accelerated(self.pipe, recipe),
            playback.playing(self.pipe.transformer, skipped) if skipped else nullcontext(),
        ):
            (patch,) = patches_of(self.pipe)
            if forced:
                errors = forced_errors(self.pipe, lambda: self.run(prompt), dense)[first:]
            else:
                latents = self.run(prompt)
        work = work_of(patch, playback.played, self.steps * self.passes)
        if latents is None:
            return Row(name, self.steps, prompt, work, forced=errors)
        row = Row(name, self.steps, prompt, work, None, relative_error(latents, dense.latents))
        if not pixels:
            return row
        quality = measure_quality(*(decoded(self.pipe, each) for each in (latents, dense.latents)))
        added = (quality.flicker_difference or 0.0) / (quality.reference_flicker or 1.0)
        return replace(row, ssim=quality.ssim, flicker=added)


def decoded(pipe: Any, latents: Tensor) -> Tensor:
    """Frames [F, H, W, C] in [0, 1], as the pipeline would decode them, in bfloat16."""
    vae = pipe.vae
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean, std = (torch.tensor(x).view(shape) for x in (vae.config.latents_mean, vae.config.latents_std))
    with torch.no_grad():
        video = vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0]
    return pipe.video_processor.postprocess_video(video.float(), output_type="pt")[0].permute(0, 2, 3, 1)


def numbers(text: str) -> list[int]:
    """ "0-3,9" as [0, 1, 2, 3, 9]."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def read(out: Path) -> list[Row]:
    return [Row(**row | {"forced": row["forced"] and tuple(row["forced"])}) for row in read_table(out)]


def write(out: Path, rows: list[Row], settings: Mapping[str, Any] = ALL) -> None:
    """Write rows, and beside them the settings that they name."""
    used = {row.setting for row in rows}
    kept = {**settings_in(out), **settings}
    write_table(out, map(asdict, rows), {"settings": {name: kept[name] for name in kept if name in used}})


def replaces(row: Row, old: Row) -> bool:
    """Whether a row has the figures of an old one, measured again."""
    same = (row.setting, row.steps, row.prompt) == (old.setting, old.steps, old.prompt)
    return same and (row.forced is None) == (old.forced is None)


def settings_in(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text(encoding="utf-8"))["settings"] if out.exists() else {}


def settings_named(names: Sequence[str]) -> dict[str, Any]:
    """Settings by name; recipe files by the name of the file."""
    return {
        name if name in ALL else Path(name).stem: ALL[name] if name in ALL else recipe_data(load_recipe(name))
        for name in names
    }


def main(
    out: Annotated[Path, typer.Argument(help="JSON file to write, or to continue.")],
    setting: Annotated[list[str], typer.Option(help="A key of SETTINGS or PUBLISHED, or a file; repeat.")],
    prompts: Annotated[str, typer.Option(help="Numbers and ranges: 1,3,16-27.")] = "0-3",
    steps: Annotated[int, typer.Option()] = 8,
    size: Annotated[int, typer.Option(help="Pixels of a side.")] = 128,
    guidance: Annotated[float, typer.Option()] = DEMO_SETTINGS["guidance_scale"],
    forced: Annotated[bool, typer.Option(help="The forced error in place of whole generations.")] = False,
    pixels: Annotated[bool, typer.Option(help="SSIM too, which decodes.")] = False,
    cache: Annotated[Path, typer.Option(help="Folder of the dense runs.")] = Path("out/dense"),
) -> None:
    """Measure settings on prompts."""
    warnings.filterwarnings("ignore", message="the VAE")
    pipe = load_pipeline("demo")
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.to(torch.bfloat16)
    bench = Bench(pipe, cache, steps, size, guidance)
    settings = settings_named(setting)
    for prompt in numbers(prompts):
        for name in settings:
            done = any(
                (row.setting, row.steps, row.prompt) == (name, steps, prompt)
                and (row.forced is not None) == forced
                and (not pixels or row.ssim is not None)
                for row in read(out)
            )
            if not done:
                recipe = build_recipe(settings[name], name)
                row = bench.measure(name, recipe, prompt, forced, pixels)
                print(row, row.forced_rms, flush=True)
                write(out, [*(old for old in read(out) if not replaces(row, old)), row], settings)


if __name__ == "__main__":
    typer.run(main)
