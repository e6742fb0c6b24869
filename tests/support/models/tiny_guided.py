"""A denoising loop with any of diffusers' guiders, as its pipelines write it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

import tiny
import tiny_families


@dataclass(frozen=True)
class Guided:
    """A tiny model that guidance can be tried on.

    Args:
        model: makes one.
        arguments: of one of its forwards.
        blocks: name of its list of blocks.
        scale: what its timesteps are multiplied by.
    """

    model: Callable[[], Any]
    arguments: Callable[[Any], dict[str, Any]]
    blocks: str
    scale: float = 1.0


GUIDED = {
    "wan": Guided(tiny.wan, tiny.inputs, "blocks"),
    "qwen-image": Guided(
        tiny_families.CASES["qwen-image"].model,
        lambda model: tiny_families.CASES["qwen-image"].arguments((1, 12, 14)),
        "transformer_blocks",
        0.001,
    ),
}


@torch.no_grad()
def denoise(guided: Guided, model: Any, guider: Any, scheduler: Any = None, steps: int = 6) -> Tensor:
    """The latents after all steps; always the same texts and noise."""
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler()
    arguments = guided.arguments(model)
    latents, text = arguments["hidden_states"], arguments["encoder_hidden_states"]
    texts = (text, torch.randn(text.shape, generator=torch.Generator().manual_seed(9)))
    scheduler.set_timesteps(steps)
    for step, timestep in enumerate(scheduler.timesteps):
        guider.set_state(step=step, num_inference_steps=steps, timestep=timestep)
        passes = guider.prepare_inputs({"encoder_hidden_states": texts})
        for one in passes:
            guider.prepare_models(model)
            changes = {"hidden_states": latents, "timestep": timestep.expand(1) * guided.scale}
            changes["encoder_hidden_states"] = one.encoder_hidden_states
            one.noise_pred = model(**{**arguments, **changes})[0]
            guider.cleanup_models(model)
        latents = scheduler.step(guider(passes)[0], timestep, latents, return_dict=False)[0]
    return latents
