"""Anchors: differences that people know, on the same ruler as an accelerated video's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from torch import Tensor

from accel.run.video import as_bytes, read_video


def as_usual_mp4(frames: Tensor, fps: float = 16) -> Tensor:
    """The video [F, H, W, 3] as a player shows it from an H.264 file of the quality that ffmpeg's Python
    wrapper, and with it diffusers' `export_to_video`, takes by default; float in [0, 1]."""
    _, height, width, _ = frames.shape
    # 4:2:0 video holds no odd size.
    pixels = np.pad(
        as_bytes(frames), [(0, 0), *((0, side % 2) for side in (height, width)), (0, 0)], mode="edge"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "usual.mp4"
        size = (pixels.shape[2], pixels.shape[1])
        writer = imageio_ffmpeg.write_frames(str(path), size, fps=fps, macro_block_size=2)
        writer.send(None)
        for frame in pixels:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        shown = np.stack([np.asarray(frame) for frame in read_video(path)])
    return torch.from_numpy(shown[:, :height, :width]).float() / 255
