"""Nucleus-Image: keys of one image, whose tokens alone have queries, then of text; padded text is masked."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_nucleusmoe_image import NucleusMoEAttnProcessor2_0

from accel.patches.diffusers.filled_queries import FillingBehind
from accel.patches.diffusers.reading import lengths, modules_named, unit_timestep
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "anywhere"
PROCESSORS = routed(NucleusMoEAttnProcessor2_0, mixin=FillingBehind)
attention_modules = modules_named("transformer_blocks.*.attn")
read_timestep = unit_timestep


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its image shapes, which are alike, and its text [B, T, C]."""
    shapes = kwargs["img_shapes"]
    frames, height, width = shapes[0] if isinstance(shapes, list) else shapes
    return TokenGrid(frames, height, width, text_tokens=lengths(kwargs["encoder_hidden_states"]))
