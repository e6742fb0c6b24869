"""Preview: a picture of latents that costs nothing, to see where a run is going."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

HEIGHT = 256
# The quantiles of a channel's values that are drawn black and white.
LOW, HIGH = 0.02, 0.98


def preview(latents: Tensor) -> Image.Image | None:
    """The middle frame of latents [B, C, F, H, W] or [B, C, H, W]: the three directions in which its channels
    differ most as colours. None for latents of another form, which some models pack."""
    if latents.ndim not in (4, 5) or not latents.isfinite().all():
        return None
    frame = latents[0, :, latents.shape[2] // 2] if latents.ndim == 5 else latents[0]  # [C, H, W]
    channels, height, width = frame.shape
    if channels < 3 or min(height, width) < 2:
        return None
    tokens = frame.flatten(1).T.float()  # [H W, C]
    tokens = tokens - tokens.mean(dim=0)
    _, _, directions = torch.linalg.svd(tokens, full_matrices=False)
    # A direction has no sign of its own: the same picture must not flip from step to step.
    directions = directions[:3] * directions[:3].sum(dim=1, keepdim=True).sign()
    colours = tokens @ directions.T  # [H W, 3]
    low, high = colours.quantile(LOW, dim=0), colours.quantile(HIGH, dim=0)
    pixels = ((colours - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).mul(255).round()
    image = Image.fromarray(pixels.reshape(height, width, 3).to(torch.uint8).numpy())
    return image.resize((max(1, HEIGHT * width // height), HEIGHT), Image.Resampling.BICUBIC)
