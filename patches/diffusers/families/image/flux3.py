"""FLUX.3: text, then the tokens of one image, then those of its reference images.

The blocks before the joint ones run over text, image and conditions apart; only the joint ones are sparse.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_flux3 import Flux3AttnProcessor

from accel.patches.diffusers.reading import lengths, modules_named, raster_size, unit_timestep
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(Flux3AttnProcessor)
read_timestep = unit_timestep
attention_modules = modules_named("single_transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its image positions [N, 4], its text and its conditions [B, T, C].

    Raises:
        ValueError: if the positions do not list one full grid row by row. Reading them costs one device read.
    """
    frames, height, width = raster_size(kwargs["img_ids"][:, :3])
    conditions = lengths(kwargs.get("image_cond_hidden_states"))
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(frames, height, width, text_tokens=conditions, lead_tokens=text)
