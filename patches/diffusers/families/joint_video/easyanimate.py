"""EasyAnimate: text, then video tokens."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_easyanimate import EasyAnimateAttnProcessor2_0

from accel.patches.diffusers.reading import latent_grid, lengths, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(EasyAnimateAttnProcessor2_0)
attention_modules = modules_named("transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W] and its one or two texts [B, T, C]."""
    texts = kwargs["encoder_hidden_states"], kwargs.get("encoder_hidden_states_t5")
    side = model.config.patch_size
    return latent_grid(kwargs["hidden_states"], (1, side, side), text_tokens=lengths(*texts), text_first=True)
