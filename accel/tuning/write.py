"""Write what tuning found: an ordinary recipe with its evidence in the header, and a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from torch import Tensor

from accel.comparison.curve import Tried, write_curve
from accel.comparison.drawing.charts import tradeoff_chart
from accel.comparison.render import data_uri, rendered
from accel.files import write_whole
from accel.plain_text import plain
from accel.recipe.files import recipe_data
from accel.run.video import write_video
from accel.tuning.heat import heat_map
from accel.tuning.point import Point, Tuned
from accel.tuning.target import Target


def with_evidence(lines: Iterable[str], data: Mapping[str, Any], description: str) -> str:
    """A recipe as YAML, with lines of comment before it."""
    # A prompt may hold line breaks, after which it would be no comment any more.
    header = "\n".join(f"# {plain(' '.join(line.split()))}".rstrip() for line in lines)
    return f"{header}\n{yaml.safe_dump({**data, 'description': description}, sort_keys=False)}"


def recipe_text(tuned: Tuned) -> str:
    """The recipe as YAML, with what it was tuned on, and what it reached, in comments."""
    sizes = {
        name: value
        for name, value in vars(tuned.settings).items()
        if value not in (None, ()) and name != "prompt"
    }
    lines = [
        f"Tuned by `accel tune` to {tuned.target}, {date.today().isoformat()}.",
        "",
        f"Settings: {', '.join(f'{name} {value}' for name, value in sizes.items())}",
        f"Machine: {tuned.machine}; {tuned.seconds / 60:.0f} minutes",
        f"Reached: {tuned.reached}",
        "(chosen so that, by their spread, the mean of as many others meets the target four times of five)",
        f"Held out: {held_out(tuned)}",
        f"Prompts: {len(tuned.prompts)}; the seed of each is its place, from 0, plus the one above; the last "
        f"{tuned.kept_aside} were kept aside:",
        *(f"- {prompt}" for prompt in tuned.prompts),
        "Not measured: any other size, number of steps, machine or prompt.",
    ]
    return with_evidence(lines, tuned.data, f"tuned to {tuned.target}")


def held_out(tuned: Tuned) -> str:
    """What the prompts kept aside say about a recipe."""
    if tuned.held_out is None:
        return "no prompts were kept aside"
    if not tuned.corrected:
        return str(tuned.held_out)
    return (
        f"nothing: the first choice missed the target on the prompts kept aside ({tuned.held_out}), so the "
        "recipe was chosen again on all prompts"
    )


def write_best(best: Point, target: Target, path: Path) -> Path:
    """The recipe that came closest to a target that cannot be reached."""
    header = f"The closest to {target} that `accel tune` found, {date.today().isoformat()}: {best}"
    return write_whole(path, with_evidence([header], recipe_data(best.recipe), best.recipe.description))


def write_recipe(tuned: Tuned, path: Path) -> Path:
    return write_whole(path, recipe_text(tuned))


def write_tried(tuned: Tuned, folder: Path) -> Path:
    """Write everything that was tried next to the recipe, for the pages that compare it."""
    return write_curve(_tried(tuned), folder)


def write_page(tuned: Tuned, path: Path, fps: float = 12.0) -> Path:
    """Speed against quality for every recipe tried, where leaving out hurts, and the videos next to dense."""
    page = rendered(
        Path(__file__).with_name("page.html.j2"),
        tuned=tuned,
        held_out=held_out(tuned),
        tradeoff=tradeoff_chart(_tried(tuned)),
        recipe=recipe_text(tuned),
        heat=heat_map(tuned.profile),
        videos=[_embedded(frames, path, fps) for frames in tuned.videos],
    )
    return write_whole(path, page)


def _tried(tuned: Tuned) -> list[Tried]:
    return [
        Tried(
            each.density, each.speedup, each.latent_error, each.ssim, each.recipe == tuned.recipe, str(each)
        )
        for each in tuned.points
    ]


def _embedded(frames: Tensor, page: Path, fps: float) -> str:
    """A video as a data URI."""
    with TemporaryDirectory(dir=page.parent) as folder:
        return data_uri(write_video(frames, Path(folder) / "video.mp4", fps).read_bytes(), "video/mp4")
