"""ERNIE-Image: the tokens of one image, then text, whose padding is masked."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_ernie_image import ErnieImageSingleStreamAttnProcessor

from accel.patches.diffusers.reading import lengths, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "last"
PROCESSORS = routed(ErnieImageSingleStreamAttnProcessor)
attention_modules = modules_named("layers.*.self_attention")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = (size // model.patch_size for size in kwargs["hidden_states"].shape[2:])
    return TokenGrid(1, height, width, text_tokens=lengths(kwargs["text_bth"]))
