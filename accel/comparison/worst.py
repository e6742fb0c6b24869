"""Worst: where an accelerated video differs most from the dense one: a frame, and a place in it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from accel.comparison.quality import Quality
from accel.run.video import as_bytes

SHARE = 3  # of a frame's shorter side, the side of the place
LEAST = 32


@dataclass(frozen=True)
class Worst:
    """The frame of lowest SSIM and the square in it whose mean error is largest.

    Args:
        frame: counted from 0.
        top, left, side: of the square, in pixels.
        error: mean absolute difference in the square, of values in [0, 1]; `frame_error` in its frame.
        dense, accelerated: the frame as PNG, and `dense_place`, `accelerated_place` the square.
    """

    frame: int
    top: int
    left: int
    side: int
    ssim: float
    error: float
    frame_error: float
    height: int
    width: int
    dense: bytes
    accelerated: bytes
    dense_place: bytes
    accelerated_place: bytes


def find_worst(accelerated: Tensor, dense: Tensor, quality: Quality) -> Worst | None:
    """Of two videos [F, H, W, 3] in [0, 1]; None if they are identical."""
    if quality.identical:
        return None
    frame = min(range(len(dense)), key=lambda number: quality.per_frame_ssim[number])
    one, other = dense[frame].float(), accelerated[frame].float()
    height, width, _ = one.shape
    side = min(height, width, max(LEAST, min(height, width) // SHARE))
    errors = (one - other).abs().mean(dim=2)  # [H, W]
    means = F.avg_pool2d(errors[None, None].double(), side, stride=1)[0, 0]  # [H - side + 1, W - side + 1]
    top, left = divmod(int(means.argmax()), means.shape[1])
    place = slice(top, top + side), slice(left, left + side)
    return Worst(
        frame, top, left, side, quality.per_frame_ssim[frame], float(means.max()), float(errors.mean()),
        height, width, _png(one), _png(other), _png(one[place]), _png(other[place]),
    )  # fmt: skip


def _png(frame: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(as_bytes(frame.unsqueeze(0))[0]).save(file, format="PNG")
    return file.getvalue()
