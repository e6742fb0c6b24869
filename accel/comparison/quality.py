"""Quality of a video against a reference: PSNR, SSIM and temporal flicker, from the tensors alone.

A video is a floating [F, H, W, C] tensor in [0, 1]: F frames, H rows, W columns, C channels. Compare what the
pipeline returned, never a decoded file: lossy coding alone can cost more decibels than sparsity does. Every
figure is computed in float64, one frame at a time, on the device the video lies on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class Quality:
    """What separates a video from its reference. PSNR is infinite where the two are equal.

    Args:
        per_frame_psnr: decibels, one for each frame.
        per_frame_ssim: one for each frame, at most 1.
        psnr_pooled: decibels, from the squared error pooled over all frames.
        flicker: `temporal_flicker` of the video; None for a single frame.
        reference_flicker: that of the reference.
    """

    per_frame_psnr: tuple[float, ...]
    per_frame_ssim: tuple[float, ...]
    psnr_pooled: float
    flicker: float | None = None
    reference_flicker: float | None = None

    @property
    def psnr(self) -> float:
        """Mean of the per-frame PSNR over the frames that differ, in dB; infinite if all are equal."""
        finite = [value for value in self.per_frame_psnr if math.isfinite(value)]
        return sum(finite) / len(finite) if finite else math.inf

    @property
    def ssim(self) -> float:
        """Mean of the per-frame SSIM."""
        return sum(self.per_frame_ssim) / len(self.per_frame_ssim)

    @property
    def identical(self) -> bool:
        """Whether every value of every frame is equal."""
        return math.isinf(self.psnr_pooled)

    @property
    def flicker_difference(self) -> float | None:
        """Flicker added (above 0) or lost (below 0) against the reference; None for a single frame."""
        if self.flicker is None or self.reference_flicker is None:
            return None
        return self.flicker - self.reference_flicker

    def as_dict(self) -> dict[str, Any]:
        """Every figure under its name, JSON-safe: an infinite PSNR is null."""
        return {
            "identical": self.identical,
            "psnr_mean_over_frames": _null_if_infinite(self.psnr),
            "psnr_pooled": _null_if_infinite(self.psnr_pooled),
            "ssim": self.ssim,
            "flicker": self.flicker,
            "reference_flicker": self.reference_flicker,
            "flicker_difference": self.flicker_difference,
            "per_frame_psnr": [_null_if_infinite(value) for value in self.per_frame_psnr],
            "per_frame_ssim": list(self.per_frame_ssim),
        }


def measure_quality(video: Tensor, reference: Tensor) -> Quality:
    """All figures of `video` against `reference`, both [F, H, W, C] in [0, 1].

    Raises:
        ValueError: if the shapes differ, a frame is smaller than 11 x 11, a type is not floating, or a value
            is not finite or not in [0, 1].
    """
    _check(video, reference)
    pairs = zip(video, reference, strict=True)
    errors = torch.stack([(x.double() - y.double()).square().mean() for x, y in pairs])  # [F]
    return Quality(
        per_frame_psnr=tuple(_decibels(errors).tolist()),
        per_frame_ssim=tuple(_per_frame_ssim(video, reference).tolist()),
        psnr_pooled=_decibels(errors.mean()).item(),
        flicker=temporal_flicker(video),
        reference_flicker=temporal_flicker(reference),
    )


def temporal_flicker(video: Tensor) -> float | None:
    """Mean absolute difference between neighbouring frames, in [0, 1]; None for a single frame.

    Motion counts too, so it is meaningful only next to the same figure of a reference. VBench's temporal
    flickering (arXiv 2311.17982) is 1 minus this.

    Args:
        video: [F, H, W, C] in [0, 1].
    """
    if len(video) < 2:
        return None
    steps = [(later.double() - earlier.double()).abs().mean() for earlier, later in pairwise(video)]
    return torch.stack(steps).mean().item()


def relative_error(a: Tensor, b: Tensor) -> float:
    """norm(a - b) / norm(b) over all values, for latents of any one shape.

    Raises:
        ValueError: if the shapes differ, or b is zero everywhere.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {list(a.shape)} and {list(b.shape)}")
    scale = b.double().norm()
    if not scale > 0:
        raise ValueError(f"the reference has norm {scale.item()}: no error is relative to it")
    return ((a.double() - b.double()).norm() / scale).item()


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4 or not a.numel():
        raise ValueError(
            f"expected two videos [F, H, W, C] of one shape, got {list(a.shape)} and {list(b.shape)}"
        )
    for video in (a, b):
        if not video.is_floating_point():
            raise ValueError(f"a video holds floating values in [0, 1], got {video.dtype}")
        low, high = video.min().item(), video.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"a video holds values in [0, 1], got values from {low:.4g} to {high:.4g}")


def _decibels(mse: Tensor) -> Tensor:
    return 10 * mse.reciprocal().log10()


def _per_frame_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), mean over pixels and channels: a Gaussian window that lies
    wholly inside the frame, data range 1."""
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(
            f"SSIM needs frames of at least {WINDOW} x {WINDOW}, got {a.shape[1]} x {a.shape[2]}"
        )
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=a.device) - WINDOW // 2
    window = torch.exp(-0.5 * (offsets / SIGMA).square())
    window /= window.sum()
    return torch.stack([_frame_ssim(x, y, window) for x, y in zip(a, b, strict=True)])  # [F]


def _frame_ssim(a: Tensor, b: Tensor, window: Tensor) -> Tensor:
    a, b = (frame.double().permute(2, 0, 1) for frame in (a, b))  # [C, H, W]
    maps = torch.stack([a, b, a * a, b * b, a * b]).flatten(0, 1).unsqueeze(1)  # [5 C, 1, H, W]
    maps = F.conv2d(F.conv2d(maps, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    mean_a, mean_b, aa, bb, ab = maps.squeeze(1).unflatten(0, (5, -1))
    variances = aa - mean_a.square() + bb - mean_b.square()
    covariance = ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a.square() + mean_b.square() + K1**2)
    return (luminance * (2 * covariance + K2**2) / (variances + K2**2)).mean()


def _null_if_infinite(value: float) -> float | None:
    return value if math.isfinite(value) else None
