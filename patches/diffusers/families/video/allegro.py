"""Allegro: video tokens only."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import AllegroAttnProcessor2_0

from accel.patches.diffusers.reading import latent_grid, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(AllegroAttnProcessor2_0)
attention_modules = modules_named("transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W]."""
    side = model.config.patch_size
    return latent_grid(kwargs["hidden_states"], (model.config.patch_size_t, side, side))
