"""Krea 2: text, whose padding is masked and comes before its last tokens, then the tokens of one image."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_krea2 import Krea2AttnProcessor

from accel.patches.diffusers.reading import lengths, modules_named, raster_size, unit_timestep
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "anywhere"
PROCESSORS = routed(Krea2AttnProcessor)
read_timestep = unit_timestep
# The joint attention of the blocks; the fusion of text layers is not changed.
attention_modules = modules_named("transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from the positions [N, 3] of text and image, and its text [B, T, L, C].

    Raises:
        ValueError: if the positions do not list one full grid row by row. Reading them costs one device read.
    """
    text = lengths(kwargs["encoder_hidden_states"])
    frames, height, width = raster_size(kwargs["position_ids"][text:])
    return TokenGrid(frames, height, width, text_tokens=text, text_first=True)
