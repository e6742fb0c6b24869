"""AnyFlow, bidirectional: video tokens; text is read in cross-attention."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_anyflow import AnyFlowAttnProcessor

from accel.patches.diffusers.reading import latent_grid, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(AnyFlowAttnProcessor)
attention_modules = modules_named("blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, F, C, H, W]."""
    return latent_grid(kwargs["hidden_states"], model.config.patch_size, axes=(1, 3, 4))
