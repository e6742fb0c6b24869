"""Stable Diffusion 3 and 3.5: the tokens of one image, then text."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import FusedJointAttnProcessor2_0, JointAttnProcessor2_0
from torch import nn

from accel.patches.diffusers.reading import lengths, modules_like
from accel.patches.diffusers.seated_processor import SeatedProcessor, rerouted
from accel.patches.grid import TokenGrid


class SeatedSD3Processor(SeatedProcessor, JointAttnProcessor2_0):
    """Stable Diffusion 3 joint attention with a seat."""

    __call__ = rerouted(JointAttnProcessor2_0.__call__)


class SeatedFusedSD3Processor(SeatedProcessor, FusedJointAttnProcessor2_0):
    """Stable Diffusion 3 joint attention with fused projections and a seat."""

    __call__ = rerouted(FusedJointAttnProcessor2_0.__call__)


SEATED: dict[type, type] = {
    JointAttnProcessor2_0: SeatedSD3Processor,
    FusedJointAttnProcessor2_0: SeatedFusedSD3Processor,
}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the blocks; 3.5's second attention, over the image alone, stays as it is."""
    return modules_like(model, "transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = kwargs["hidden_states"].shape[2:]
    side = model.config.patch_size
    return TokenGrid(1, height // side, width // side, text_tokens=lengths(kwargs["encoder_hidden_states"]))
