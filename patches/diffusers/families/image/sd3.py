"""Stable Diffusion 3 and 3.5: the tokens of one image, then text."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import FusedJointAttnProcessor2_0, JointAttnProcessor2_0
from torch import nn

from accel.patches.diffusers.reading import lengths, modules_like
from accel.patches.diffusers.routed_processor import RoutedProcessor, rerouted
from accel.patches.grid import TokenGrid


class RoutedSD3Processor(RoutedProcessor, JointAttnProcessor2_0):
    """Stable Diffusion 3 joint attention with a slot."""

    __call__ = rerouted(JointAttnProcessor2_0.__call__)


class RoutedFusedSD3Processor(RoutedProcessor, FusedJointAttnProcessor2_0):
    """Stable Diffusion 3 joint attention with fused projections and a slot."""

    __call__ = rerouted(FusedJointAttnProcessor2_0.__call__)


PROCESSORS: dict[type, type] = {
    JointAttnProcessor2_0: RoutedSD3Processor,
    FusedJointAttnProcessor2_0: RoutedFusedSD3Processor,
}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the blocks; 3.5's second attention, over the image alone, stays as it is."""
    return modules_like(model, "transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = kwargs["hidden_states"].shape[2:]
    side = model.config.patch_size
    return TokenGrid(1, height // side, width // side, text_tokens=lengths(kwargs["encoder_hidden_states"]))
