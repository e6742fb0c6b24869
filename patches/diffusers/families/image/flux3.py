"""FLUX.3: text, then the tokens of one image, then those of its reference images.

The blocks before the joint ones run over text, image and conditions apart; only the joint ones are sparse.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_flux3 import Flux3AttnProcessor

from accel.patches.diffusers.reading import leading_raster, lengths, modules_named, unit_timestep
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(Flux3AttnProcessor)
read_timestep = unit_timestep
attention_modules = modules_named("single_transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its positions [N, (time, row, column, image)] and its text [B, T, C].

    Reference images of the image's size are further frames of it; what follows of another size is kept whole.

    Raises:
        ValueError: if the image is not listed row by row. Reading positions costs one device read.
    """
    ids = [kwargs["img_ids"], kwargs.get("image_cond_ids")]
    images = torch.cat([positions for positions in ids if positions is not None])
    size, others = leading_raster(images[:, [3, 1, 2]])
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(*size, text_tokens=text, text_first=True, tail_tokens=others)
