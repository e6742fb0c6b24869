"""Lumina 2: each sample's own text, then the tokens of its image, then the batch's padding.

So images of one batch begin at different places of the sequence where their texts differ in length.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_lumina2 import Lumina2AttnProcessor2_0
from torch import Tensor

from accel.patches.diffusers.reading import modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "behind"
PROCESSORS = routed(Lumina2AttnProcessor2_0)
# The attention of the joint layers; the refiners of image and text are not changed.
attention_modules = modules_named("layers.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and the mask of its text [B, T].

    Reading the mask costs one device read, as in the model itself.
    """
    side = model.config.patch_size
    height, width = (size // side for size in kwargs["hidden_states"].shape[2:])
    text = int(kwargs["encoder_attention_mask"].sum(dim=1).max())
    return TokenGrid(1, height, width, text_tokens=text, text_first=True)


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of one forward, which this model takes in [0, 1], growing as noise falls."""
    return (1 - kwargs["timestep"]) * 1000
