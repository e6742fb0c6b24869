"""PixArt: the tokens of one image; text is read in cross-attention."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0

from accel.patches.diffusers.reading import modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(AttnProcessor2_0, FusedAttnProcessor2_0)
attention_modules = modules_named("transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W]."""
    height, width = (size // model.config.patch_size for size in kwargs["hidden_states"].shape[2:])
    return TokenGrid(1, height, width)
