"""Run a Wan VAE on whole clips at once, with the result of diffusers' loop over chunks of four frames.

Only WanResample behaves differently without its cache: it then leaves time alone. Hooks put that back, so
that training needs one forward of the encoder and one of the decoder; calls with a cache are not affected.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from torch import Tensor, nn


def allow_whole_clips(vae: AutoencoderKLWan) -> None:
    """Install the hooks permanently; `encode` and `decode` of the VAE itself are unchanged."""
    for module in vae.modules():
        if isinstance(module, WanResample) and module.mode == "downsample3d":
            module.register_forward_hook(_halve_time, with_kwargs=True)
        elif isinstance(module, WanResample) and module.mode == "upsample3d":
            module.register_forward_pre_hook(_double_time, with_kwargs=True)


def encode_clip(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the latent, each [B, z, 1 + (F-1)/4, H/4, W/4] for a `video` [B, 3, F, H, W].

    Raises:
        ValueError: if F is not one more than a multiple of four.
    """
    if video.shape[2] % 4 != 1:
        raise ValueError(f"a clip needs 4n + 1 frames, got {video.shape[2]}")
    mean, log_variance = vae.quant_conv(vae.encoder(video)).chunk(2, dim=1)
    return mean, log_variance.clamp(-30, 20)


def decode_clip(vae: AutoencoderKLWan, latent: Tensor) -> Tensor:
    """The video [B, 3, 1 + 4(f-1), 4h, 4w] of a `latent` [B, z, f, h, w], not clamped to [-1, 1]."""
    return vae.decoder(vae.post_quant_conv(latent), first_chunk=True)


def _halve_time(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor | None:
    if kwargs.get("feat_cache") is not None or output.shape[2] == 1:
        return None
    return torch.cat([output[:, :, :1], module.time_conv(output)], dim=2)


def _double_time(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    x, *rest = args
    if kwargs.get("feat_cache") is not None or x.shape[2] == 1:
        return None
    pairs = module.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))  # [B, 2, C, f-1, h, w]
    return (torch.cat([x[:, :, :1], pairs.movedim(1, 3).flatten(2, 3)], dim=2), *rest), kwargs
