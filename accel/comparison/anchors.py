"""Anchors: familiar changes, on the same scale as an accelerated video's differences."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from torch import Tensor

from accel.run.video import as_bytes, read_video

MP4, BACKEND, SEED = "an mp4 of default quality", "another exact backend", "another seed"


@dataclass(frozen=True)
class Anchor:
    """What a change other than sparse attention does to a video.

    Args:
        name: as it reads after "closer than".
        ssim: against the dense video.
        latent_error: None where latents do not differ, or were not looked at.
        of_demo: measured on the embedded demo instead of this model.
    """

    name: str
    ssim: float
    latent_error: float | None = None
    of_demo: bool = False

    def said(self, number: str) -> str:
        """One of its numbers, and where that is from."""
        return f"{number} on the demo" if self.of_demo else number


# Means over four to six of the demo's prompts, two for the exact backend; 33 frames of 128 x 128 in 8 steps,
# float32 on a CPU: docs/benchmarks/anchors.jsonl, made by scripts/quality/anchors.py.
DEMO = (
    Anchor(BACKEND, 1.0000, 2.70e-06, of_demo=True),
    Anchor("weights in fp8", 0.9573, 0.1406, of_demo=True),
    Anchor("half the steps", 0.7913, 0.4102, of_demo=True),
    Anchor(SEED, 0.6864, 0.8676, of_demo=True),
)


def completed(found: Sequence[Anchor]) -> tuple[Anchor, ...]:
    """The anchors measured in a run, and the demo's for the others; closest to dense first."""
    here = {anchor.name for anchor in found}
    rest = [anchor for anchor in DEMO if anchor.name not in here]
    return tuple(sorted([*found, *rest], key=lambda anchor: anchor.ssim, reverse=True))


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
