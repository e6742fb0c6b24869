"""Draw frames of several videos under each other, a row a video: a picture to look at, never to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import imageio_ffmpeg
import numpy as np
import typer
from PIL import Image


def read_frames(path: Path) -> list[np.ndarray]:
    """RGB frames [H, W, 3], uint8."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def main(
    videos: Annotated[list[Path], typer.Argument(help="One row each.", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("sheet.png"),
    columns: Annotated[int, typer.Option(help="Frames of each video, evenly spaced.", min=1)] = 6,
) -> None:
    """Draw the sheet."""
    rows = []
    for path in videos:
        frames = read_frames(path)
        chosen = np.linspace(0, len(frames) - 1, columns).round().astype(int)
        rows.append(np.concatenate([frames[n] for n in chosen], axis=1))
    Image.fromarray(np.concatenate(rows, axis=0)).save(output, optimize=True)


if __name__ == "__main__":
    typer.run(main)
