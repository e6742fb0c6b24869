"""CogView 3 Plus, CogView 4 and GLM-Image: text, then the tokens of one image.

With reference images, GLM-Image keeps their keys and values from separate forwards: a call then has more
keys than queries, and stays dense.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0
from diffusers.models.transformers.transformer_cogview4 import CogView4AttnProcessor
from diffusers.models.transformers.transformer_glm_image import GlmImageAttnProcessor

from accel.patches.diffusers.reading import lengths, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(
    CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0, CogView4AttnProcessor, GlmImageAttnProcessor
)
attention_modules = modules_named("transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = (size // model.config.patch_size for size in kwargs["hidden_states"].shape[2:])
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(1, height, width, text_tokens=text, text_first=True)
