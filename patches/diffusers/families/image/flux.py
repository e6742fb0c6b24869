"""Flux, Flux.2, LongCat-Image and Ovis-Image: text, then one or more images, each token with its position."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor
from diffusers.models.transformers.transformer_longcat_image import LongCatImageAttnProcessor
from diffusers.models.transformers.transformer_ovis_image import OvisImageAttnProcessor

from accel.patches.diffusers.reading import joint_attention, leading_raster, lengths, unit_timestep
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(
    FluxAttnProcessor,
    Flux2AttnProcessor,
    Flux2ParallelSelfAttnProcessor,
    LongCatImageAttnProcessor,
    OvisImageAttnProcessor,
)
attention_modules = joint_attention
read_timestep = unit_timestep


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its image positions [N, 3 or 4] and its text [B, T, C].

    Reference images of the first one's size are further frames of it; what follows of another size is kept
    whole.

    Raises:
        ValueError: if the first image is not listed row by row. Reading positions costs one device read.
    """
    ids = kwargs["img_ids"]
    size, others = leading_raster((ids[0] if ids.ndim == 3 else ids)[:, :3])
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(*size, text_tokens=text, text_first=True, tail_tokens=others)
