"""GLM-Image: text, then the tokens of one image.

With images to follow, their keys and values are kept from forwards of their own: a call then has more keys
than queries, and stays dense.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_glm_image import GlmImageAttnProcessor
from torch import nn

from accel.patches.diffusers.reading import lengths, modules_like
from accel.patches.diffusers.seated_processor import DispatchingProcessor, rerouted
from accel.patches.grid import TokenGrid


class SeatedGlmImageProcessor(DispatchingProcessor, GlmImageAttnProcessor):  # type: ignore[misc]
    """GLM-Image joint attention with a seat."""

    __call__ = rerouted(GlmImageAttnProcessor.__call__)


SEATED: dict[type, type] = {GlmImageAttnProcessor: SeatedGlmImageProcessor}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = (size // model.config.patch_size for size in kwargs["hidden_states"].shape[2:])
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(1, height, width, text_tokens=text, text_first=True)
