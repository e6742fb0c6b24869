"""Draw captioned clips of the demo's world: one or two coloured shapes that move over a patterned background.

    python -m scripts.training.world.draw --seed 3 --out clips.png

draws eight clips, one a row, every fourth frame, and prints their captions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from torch import Tensor

from scripts.training.world import words
from scripts.training.world.backdrop import backdrops
from scripts.training.world.motion import paths
from scripts.training.world.scene import Scene, sample_scene
from scripts.training.world.signed_distance import DISTANCES


def draw_clips(
    count: int,
    frames: int = 33,
    height: int = 192,
    width: int = 192,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, list[str]]:
    """`count` random clips and their captions, the same for the same seed.

    Returns the video, float32 [B, 3, F, H, W] in [-1, 1] on `device`, and B captions. What the clips show is
    sampled on the CPU and so is the same on every device; pixels may differ by rounding.

    Raises:
        ValueError: if a size is below 1.
    """
    scene = sample_scene(count, seed)
    return draw_scene(scene.to(device), frames, height, width), scene.captions()


def draw_scene(scene: Scene, frames: int, height: int, width: int) -> Tensor:
    """The pixels of a scene on the scene's own device: float32 [B, 3, F, H, W] in [-1, 1]."""
    if min(frames, height, width) < 1:
        raise ValueError(f"a clip needs at least one frame and pixel, got {frames}x{height}x{width}")
    device = scene.dice.device
    x = torch.arange(width, device=device)[None] + 0.5  # [1, W]
    y = torch.arange(height, device=device)[:, None] + 0.5  # [H, 1]
    video = backdrops(scene.background, scene.kind, scene.pattern, x, y)[:, :, None]
    video = video.repeat(1, 1, frames, 1, 1)
    colours = torch.tensor(list(words.OBJECT_COLOURS.values()), device=device)[scene.colour]
    for i in range(scene.shape.shape[1]):
        share = (coverage(scene, i, frames, x, y) * scene.present[:, i, None, None, None])[:, None]
        video += share * (colours[:, i, :, None, None, None] - video)
    return video.mul_(2).sub_(1)


def coverage(scene: Scene, i: int, frames: int, x: Tensor, y: Tensor) -> Tensor:
    """The fraction of every pixel that object `i` of each clip covers, [B, F, H, W] in [0, 1]."""
    height, width = len(y), x.shape[1]
    path = paths(scene.motion[:, i], scene.dice[:, i], frames)
    radius = (scene.radius[:, i, None] * path.scale * min(height, width))[..., None, None]
    across = x - width * path.x[..., None, None]
    down = y - height * path.y[..., None, None]
    cos, sin = torch.cos(path.turn)[..., None, None], torch.sin(path.turn)[..., None, None]
    distance = torch.empty(len(scene.kind), frames, height, width, device=x.device)
    turned_across, turned_down = across * cos + down * sin, down * cos - across * sin
    for number, name in enumerate(words.SHAPES):
        rows = scene.shape[:, i] == number
        distance[rows] = DISTANCES[name](turned_across[rows], turned_down[rows], radius[rows])
    return (0.5 - distance).clamp_(0, 1)


def main(
    out: Annotated[Path, typer.Option(help="the picture to write")] = Path("clips.png"),
    count: Annotated[int, typer.Option(min=1, help="clips, one a row")] = 8,
    seed: Annotated[int, typer.Option(help="the same seed draws the same clips")] = 0,
) -> None:
    """Draw clips of the demo's world into one picture and print their captions."""
    video, captions = draw_clips(count, seed=seed)
    strip = video[:, :, ::4].permute(0, 3, 2, 4, 1).flatten(2, 3).flatten(0, 1)
    Image.fromarray(((strip + 1) * 127.5).round().byte().numpy()).save(out)
    typer.echo("\n".join(captions))


if __name__ == "__main__":
    typer.run(main)
