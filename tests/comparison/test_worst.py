"""The page shows the frame and the square that differ most; an mp4 is read back as large as it was."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from accel.comparison.anchors import as_usual_mp4
from accel.comparison.quality import measure_quality
from accel.comparison.worst import find_worst


def videos(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    dense = torch.linspace(0, 0.9, width).view(1, 1, width, 1).expand(4, height, width, 3)
    other = dense.clone()
    other[2, height - 20 :, width - 20 :] += 0.1
    return other, dense


@pytest.mark.parametrize("size", [(48, 64), (33, 41), (150, 130)], ids=str)
def test_the_worst_frame_and_square_are_found(size):
    other, dense = videos(*size)
    worst = find_worst(other, dense, measure_quality(other, dense))
    assert worst.frame == 2 and worst.error > worst.frame_error > 0
    assert worst.top + worst.side > size[0] - 20 and worst.left + worst.side > size[1] - 20
    assert worst.top + worst.side <= size[0] and worst.left + worst.side <= size[1]
    sizes = [Image.open(io.BytesIO(each)).size for each in (worst.dense, worst.accelerated_place)]
    assert sizes == [size[::-1], (worst.side, worst.side)]


def test_identical_videos_have_no_worst_place():
    _, dense = videos(48, 64)
    assert find_worst(dense, dense, measure_quality(dense, dense)) is None


@pytest.mark.parametrize("size", [(48, 64), (33, 41)], ids=str)
def test_an_mp4_of_default_quality_is_close_to_what_was_saved(size):
    _, dense = videos(*size)
    shown = as_usual_mp4(dense)
    assert shown.shape == dense.shape
    assert 0.8 < measure_quality(shown, dense).ssim < 1
