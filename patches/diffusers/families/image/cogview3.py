"""CogView 3 Plus: text, then the tokens of one image."""

from __future__ import annotations

from accel.patches.diffusers.families.image.text_then_latent import block_attention, latent_grid_after_text
from accel.patches.diffusers.families.video.cogvideox import PROCESSORS

__all__ = ["PROCESSORS", "attention_modules", "read_grid"]

attention_modules = block_attention
read_grid = latent_grid_after_text
