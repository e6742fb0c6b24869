"""A preview is a picture of latents as they are, or None."""

import pytest
import torch

from accel.run.preview import preview


@pytest.mark.parametrize("shape", [(1, 16, 5, 8, 12), (2, 4, 8, 12)], ids=str)
def test_latents_are_previewed_as_wide_as_they_are(shape):
    image = preview(torch.randn(shape))
    assert image.size == (384, 256)


@pytest.mark.parametrize(
    "latents",
    [torch.randn(1, 100, 64), torch.full((1, 4, 8, 8), torch.nan), torch.randn(1, 2, 8, 8)],
    ids=["packed", "nan", "two channels"],
)
def test_latents_that_cannot_be_previewed_are_left_out(latents):
    assert preview(latents) is None
