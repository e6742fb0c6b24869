"""Finished models on disk, in bfloat16: the measured VAE and the whole pipeline."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from torch import nn

from scripts.training.video.transformer_stage import TransformerStage
from scripts.training.video.vae_stage import VaeStage
from scripts.training.whole_folder import replace_folder


def save_vae(folder: Path, stage: VaeStage) -> dict[str, object]:
    """Measure a trained VAE, write it with its latent statistics, and return what was measured."""
    measured = stage.measure()
    statistics = {key: measured[key] for key in ("latents_mean", "latents_std")}
    vae = AutoencoderKLWan(**stage.size.vae, **statistics)
    vae.load_state_dict(stage.model.state_dict())
    replace_folder(folder, halved(vae).save_pretrained)
    return measured


def load_vae(folder: Path) -> tuple[AutoencoderKLWan, str]:
    """A finished VAE in float32, and a digest of its weights.

    Raises:
        FileNotFoundError: if `folder` contains none.
    """
    weights = folder / "diffusion_pytorch_model.safetensors"
    if not weights.exists():
        raise FileNotFoundError(f"{folder} holds no finished VAE: train one with --stage vae or --stage all")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return AutoencoderKLWan.from_pretrained(folder, dtype=torch.float32), digest


def save_pipeline(folder: Path, stage: TransformerStage) -> None:
    """Write everything as one WanPipeline folder; the stage's own models are in bfloat16 afterwards."""
    pipeline = WanPipeline(
        tokenizer=stage.tokenizer,
        text_encoder=halved(stage.model["text_encoder"]),
        vae=halved(stage.vae),
        transformer=halved(stage.model["transformer"]),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )
    replace_folder(folder, pipeline.save_pretrained)


def halved(model: nn.Module) -> nn.Module:
    """The same model with all of its numbers in bfloat16."""
    # diffusers' own `to` warns about layers to run in float32, which concerns those who load them
    return nn.Module.to(model, torch.bfloat16)
