"""Stable Diffusion 3 and 3.5: the tokens of one image, then text."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import FusedJointAttnProcessor2_0, JointAttnProcessor2_0

from accel.patches.diffusers.reading import lengths, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(JointAttnProcessor2_0, FusedJointAttnProcessor2_0)
# The joint attention of the blocks; 3.5's second attention, over the image alone, is not changed.
attention_modules = modules_named("transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = kwargs["hidden_states"].shape[2:]
    side = model.config.patch_size
    return TokenGrid(1, height // side, width // side, text_tokens=lengths(kwargs["encoder_hidden_states"]))
