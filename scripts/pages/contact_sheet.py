"""Draw frames of several videos as one picture, one row per video: to look at, never to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from accel.run.video import read_video


def main(
    videos: Annotated[list[Path], typer.Argument(help="One row each.", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("sheet.png"),
    columns: Annotated[int, typer.Option(help="Frames of each video, evenly spaced.", min=1)] = 6,
) -> None:
    """Draw the sheet."""
    rows = []
    for path in videos:
        frames = read_video(path)
        chosen = np.linspace(0, len(frames) - 1, columns).round().astype(int)
        rows.append(np.concatenate([np.asarray(frames[n]) for n in chosen], axis=1))
    Image.fromarray(np.concatenate(rows, axis=0)).save(output, optimize=True)


if __name__ == "__main__":
    typer.run(main)
