"""Mochi: video tokens, then text; the processor calls attention for each sample with its valid text alone."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import MochiAttnProcessor2_0
from torch import Tensor

from accel.patches.diffusers.reading import latent_grid, lengths, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "dropped"
PROCESSORS = routed(MochiAttnProcessor2_0)
attention_modules = modules_named("transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W] and its padded text [B, T, C]."""
    side = model.config.patch_size
    return latent_grid(
        kwargs["hidden_states"], (1, side, side), text_tokens=lengths(kwargs["encoder_hidden_states"])
    )


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of one forward; Mochi's own grows as noise falls."""
    return 1000 - kwargs["timestep"]
