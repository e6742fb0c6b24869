"""CogVideoX 2B, 5B and 1.5, text and image to video, and ConsisID: text, then video tokens."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0

from accel.patches.diffusers.reading import latent_grid, lengths, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0)
attention_modules = modules_named("transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, F, C, H, W] and its text [B, T, C]."""
    side = model.config.patch_size
    return latent_grid(
        kwargs["hidden_states"],
        (getattr(model.config, "patch_size_t", None) or 1, side, side),
        axes=(1, 3, 4),
        text_tokens=lengths(kwargs["encoder_hidden_states"]),
        text_first=True,
    )
