"""Quality figures against scikit-image, against closed forms, and at their edges."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from accel.comparison.quality import measure_quality, relative_error, temporal_flicker

SHAPES = [(3, 17, 23, 3), (1, 11, 11, 3), (2, 40, 13, 1)]
NOISE = [0.3, 1e-2, 1e-5]
shapes = pytest.mark.parametrize("shape", SHAPES, ids="F{0[0]}-{0[1]}x{0[2]}-C{0[3]}".format)
noises = pytest.mark.parametrize("noise", NOISE, ids="noise{}".format)


def two_videos(shape: tuple[int, ...], noise: float = 0.1, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(7)
    reference = torch.rand(shape, generator=generator)
    video = (reference + noise * torch.randn(shape, generator=generator)).clamp(0, 1)
    return video.to(dtype), reference.to(dtype)


@shapes
@noises
def test_psnr_is_scikit_images(shape, noise):
    video, reference = two_videos(shape, noise)
    frames = list(zip(reference.double().numpy(), video.double().numpy(), strict=True))
    expected = [peak_signal_noise_ratio(truth, test, data_range=1) for truth, test in frames]
    quality = measure_quality(video, reference)
    np.testing.assert_allclose(quality.per_frame_psnr, expected, rtol=1e-12)
    assert quality.psnr == pytest.approx(np.mean(expected), rel=1e-12)
    pooled = peak_signal_noise_ratio(reference.double().numpy(), video.double().numpy(), data_range=1)
    assert quality.psnr_pooled == pytest.approx(pooled, rel=1e-12)


@shapes
@noises
def test_ssim_is_scikit_images_gaussian_variant(shape, noise):
    video, reference = two_videos(shape, noise)
    expected = [
        structural_similarity(
            truth,
            test,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=-1,
        )
        for truth, test in zip(reference.double().numpy(), video.double().numpy(), strict=True)
    ]
    quality = measure_quality(video, reference)
    np.testing.assert_allclose(quality.per_frame_ssim, expected, rtol=1e-10)
    assert quality.ssim == pytest.approx(np.mean(expected))


def test_mean_over_frames_is_not_the_pooled_figure():
    reference = torch.zeros(2, 11, 11, 3)
    video = torch.stack([torch.full((11, 11, 3), 0.1), torch.full((11, 11, 3), 0.01)])
    quality = measure_quality(video, reference)
    assert quality.psnr == pytest.approx(30, abs=1e-4)
    assert quality.psnr_pooled == pytest.approx(10 * math.log10(2 / (0.01 + 0.0001)), abs=1e-4)


def test_half_precision_videos_are_measured_without_rounding_further():
    video, reference = two_videos((2, 12, 12, 3), 1e-2, torch.bfloat16)
    assert measure_quality(video, reference) == measure_quality(video.double(), reference.double())


def test_identical_videos_are_infinitely_close_and_json_says_so():
    video, _ = two_videos((3, 12, 12, 3))
    quality = measure_quality(video, video.clone())
    assert quality.identical and quality.psnr == quality.psnr_pooled == math.inf
    assert quality.ssim == pytest.approx(1) and quality.flicker_difference == 0
    stored = json.loads(json.dumps(quality.as_dict(), allow_nan=False))
    assert stored["identical"] is True and stored["psnr_mean_over_frames"] is None
    assert stored["per_frame_psnr"] == [None, None, None]


def test_an_equal_frame_takes_no_part_in_the_mean():
    reference = torch.zeros(2, 11, 11, 1)
    video = reference.clone()
    video[1] = 0.1
    quality = measure_quality(video, reference)
    assert quality.per_frame_psnr[0] == math.inf and not quality.identical
    assert quality.psnr == pytest.approx(20, abs=1e-5)
    json.dumps(quality.as_dict(), allow_nan=False)


def test_flicker_of_both_videos_and_their_difference():
    reference = torch.zeros(4, 11, 11, 3)
    video = reference.clone()
    video[1::2] = 0.25
    quality = measure_quality(video, reference)
    assert (quality.flicker, quality.reference_flicker) == (0.25, 0)
    assert quality.flicker_difference == 0.25
    assert measure_quality(reference, video).flicker_difference == -0.25


def test_one_frame_has_no_flicker():
    image = torch.rand(1, 11, 11, 3)
    assert temporal_flicker(image) is None
    assert measure_quality(image, image).flicker_difference is None


def test_relative_error_of_latents():
    b = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    assert relative_error(b * 1.25, b) == pytest.approx(0.25, rel=1e-6)
    assert relative_error(b, b) == 0
    with pytest.raises(ValueError, match="norm 0"):
        relative_error(b, torch.zeros_like(b))
    with pytest.raises(ValueError, match="shapes differ"):
        relative_error(b, b[0])


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.rand(2, 11, 11, 3) * 255, "values from"),
        (torch.rand(2, 11, 11, 3) - 1, "values from"),
        (torch.full((2, 11, 11, 3), math.nan), "nan"),
        (torch.zeros(2, 11, 11, 3, dtype=torch.uint8), "uint8"),
        (torch.rand(2, 11, 12, 3), "one shape"),
        (torch.rand(11, 11, 3), "one shape"),
    ],
    ids=["0-255", "negative", "nan", "uint8", "other-size", "no-frames-axis"],
)
def test_what_is_no_video_is_refused(video, message):
    reference = torch.rand(2, 11, 11, 3)
    for first, second in ((video, reference), (reference, video)):
        with pytest.raises(ValueError, match=message):
            measure_quality(first, second)


def test_ssim_refuses_frames_smaller_than_its_window():
    small = torch.rand(1, 10, 30, 3)
    with pytest.raises(ValueError, match="10 x 30"):
        measure_quality(small, small)
