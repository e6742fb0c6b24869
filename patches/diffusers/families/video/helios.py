"""Helios: compressed history (long, middle, short), then the video tokens of the current chunk.

History is read by every frame, so it takes the place of text: a prefix that policies keep whole.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_helios import HeliosAttnProcessor

from accel.patches.diffusers.reading import latent_grid, modules_named, patches_of_history
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(HeliosAttnProcessor)
TEXT_FREE = ("blocks.0.attn1",)
attention_modules = modules_named("blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent chunk [B, C, F, H, W] and its history, of the same form."""
    patch = model.config.patch_size
    history = sum(
        patches_of_history(kwargs.get(f"latents_history_{term}"), [size * shrink for size in patch])
        for term, shrink in (("short", 1), ("mid", 2), ("long", 4))
        if kwargs.get(f"indices_latents_history_{term}") is not None
    )
    return latent_grid(kwargs["hidden_states"], patch, text_tokens=history, text_first=True)
