"""PRX: keys of text, then of one image, whose tokens alone have queries; padded text is masked."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_prx import PRXAttnProcessor2_0

from accel.patches.diffusers.filled_queries import FillingProcessor
from accel.patches.diffusers.reading import lengths, modules_named, unit_timestep
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "anywhere"
PROCESSORS = routed(PRXAttnProcessor2_0, mixin=FillingProcessor)
attention_modules = modules_named("blocks.*.attention")
read_timestep = unit_timestep


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = (size // model.config.patch_size for size in kwargs["hidden_states"].shape[2:])
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(1, height, width, text_tokens=text, text_first=True)
