"""Write what tuning found: an ordinary recipe with its evidence in the header, and a page."""

from __future__ import annotations

import base64
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from accel.comparison.curve import Tried, write_curve
from accel.files import whole_file
from accel.plain_text import plain
from accel.recipe.files import recipe_data
from accel.run.video import write_video
from accel.tuning.heat import heat_map
from accel.tuning.point import Point, Tuned
from accel.tuning.target import Target

WIDTH, HEIGHT, MARGIN = 640, 300, 45


def recipe_text(tuned: Tuned) -> str:
    """The recipe as YAML, with what it was tuned on, and what it reached, in comments."""
    sizes = {
        name: value
        for name, value in vars(tuned.settings).items()
        if value not in (None, ()) and name != "prompt"
    }
    held = "no prompts were kept aside" if tuned.held_out is None else f"kept aside: {tuned.held_out}"
    corrected = (
        " (its density was raised by these prompts, so they are no longer held out)"
        if tuned.corrected
        else ""
    )
    lines = [
        f"Tuned by `accel tune` to {tuned.target}, {date.today().isoformat()}.",
        "",
        f"Settings: {', '.join(f'{name} {value}' for name, value in sizes.items())}",
        f"Machine: {tuned.machine}; {tuned.seconds / 60:.0f} minutes",
        f"Reached: {tuned.reached}",
        "(chosen so that the mean, worse by its standard error over these prompts, meets the target)",
        f"Held out: {held}{corrected}",
        f"Prompts: {len(tuned.prompts)}; the seed of each is its place, from 0, plus the one above; the last "
        f"{tuned.kept_aside} were kept aside:",
        *(f"- {prompt}" for prompt in tuned.prompts),
        "Not measured: any other size, number of steps, machine or prompt.",
    ]
    # A prompt may hold line breaks, after which it would be no comment any more.
    header = "\n".join(f"# {plain(' '.join(line.split()))}".rstrip() for line in lines)
    data = {**tuned.data, "description": f"tuned to {tuned.target}"}
    return f"{header}\n{yaml.safe_dump(data, sort_keys=False)}"


def write_best(best: Point, target: Target, path: Path) -> Path:
    """The recipe that came closest to a target that cannot be reached."""
    header = f"# The closest to {target} that `accel tune` found, {date.today().isoformat()}: {best}"
    with whole_file(path) as draft:
        draft.write_text(
            f"{header}\n{yaml.safe_dump(recipe_data(best.recipe), sort_keys=False)}", encoding="utf-8"
        )
    return path


def write_recipe(tuned: Tuned, path: Path) -> Path:
    with whole_file(path) as draft:
        draft.write_text(recipe_text(tuned), encoding="utf-8")
    return path


def write_tried(tuned: Tuned, folder: Path) -> Path:
    """Write everything that was tried next to the recipe, for the pages that compare it."""
    points = [
        Tried(point.density, point.speedup, point.latent_error, point.ssim, point.recipe == tuned.recipe)
        for point in tuned.points
    ]
    return write_curve(points, folder)


def write_page(tuned: Tuned, path: Path, fps: float = 12.0) -> Path:
    """Speed against quality for every recipe tried, where leaving out hurts, and the videos next to dense."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template("page.html.j2").render(
        tuned=tuned,
        dots=_dots(tuned),
        width=WIDTH,
        height=HEIGHT,
        margin=MARGIN,
        recipe=recipe_text(tuned),
        heat=heat_map(tuned.profile),
        videos=[_embedded(frames, path, fps) for frames in tuned.videos],
    )
    with whole_file(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path


def _embedded(frames: Tensor, page: Path, fps: float) -> str:
    """A video as a data URI."""
    with TemporaryDirectory(dir=page.parent) as folder:
        video = write_video(frames, Path(folder) / "video.mp4", fps)
        return f"data:video/mp4;base64,{base64.b64encode(video.read_bytes()).decode()}"


def _dots(tuned: Tuned) -> list[tuple[float, float, Point, bool]]:
    """Pixels (speed-up to the right, error or 1 - SSIM downwards), the recipe, whether it was chosen."""
    losses = [_loss(point) for point in tuned.points]
    speeds = [point.speedup for point in tuned.points]
    most_loss, fastest = max([*losses, 1e-9]), max([*speeds, 1.0])
    slowest = min([*speeds, 1.0])
    span = max(fastest - slowest, 1e-9)
    return [
        (
            round(MARGIN + (point.speedup - slowest) / span * (WIDTH - 2 * MARGIN), 1),
            round(MARGIN + loss / most_loss * (HEIGHT - 2 * MARGIN), 1),
            point,
            point.recipe == tuned.recipe,
        )
        for point, loss in zip(tuned.points, losses, strict=True)
    ]


def _loss(point: Point) -> float:
    if point.latent_error is not None:
        return point.latent_error
    return 1 - (point.ssim or 0.0)
