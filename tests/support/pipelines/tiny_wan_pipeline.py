"""A real Wan pipeline around tiny random transformers: loop, scheduler, guidance and callbacks are stock."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from torch import Tensor

import tiny
from accel import accelerate_model
from accel.accelerate import patches_of
from accel.recipe.recipe import Recipe
from keep_everything import KeepEverything

POOLED = {
    "method": "compose",
    "score": {"kind": "pooled"},
    "select": {"kind": "top_k", "density": 0.4},
    "block_size": [16, 16],
}


def recipe(policy: dict[str, Any] | None = None, **rest: Any) -> Recipe:
    return Recipe.model_validate({"rules": [{"match": "*", "policy": policy or POOLED}], **rest})


def wan_pipeline(experts: int = 1) -> WanPipeline:
    """A text-to-video pipeline without text encoder and VAE; two experts change at 0.6 of the noise."""
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    second = tiny.wan(num_layers=2) if experts == 2 else None
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=scheduler,
        transformer=tiny.wan(),
        transformer_2=second,
        boundary_ratio=0.6 if experts == 2 else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: WanPipeline, steps: int = 6, guidance_scale: float = 3.0, **changes: Any) -> Tensor:
    """The latent video [1, 4, 5, 12, 20] of one generation; always the same prompt and noise."""
    texts = torch.Generator().manual_seed(1)
    arguments: dict[str, Any] = {
        "prompt_embeds": torch.randn(1, 7, 16, generator=texts),
        "negative_prompt_embeds": torch.randn(1, 7, 16, generator=texts),
        "height": 96,
        "width": 160,
        "num_frames": 17,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
    }
    return pipe(**{**arguments, **changes}).frames


def keep_every_block(model: Any, **rest: Any) -> Any:
    """Accelerate a model or pipeline so that its sparse calls drop nothing."""
    accelerate_model(model, recipe(), **rest)
    for attention in attentions(model):
        attention.policy = KeepEverything()
    return model


def attentions(model: Any) -> list[Any]:
    """The attention functions that are installed in a model or pipeline."""
    return [one.attention for patch in patches_of(model) for one in patch.installed]
