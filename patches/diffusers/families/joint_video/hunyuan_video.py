"""HunyuanVideo, text to video and image to video: video tokens, then text with its padding last.

The forward itself builds the mask so that each sample's hidden keys are the end of the sequence. The token
refiner of the text runs the same processor on a few hundred tokens and is not changed.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0

from accel.patches.diffusers.reading import joint_attention, latent_grid, lengths
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "last"
PROCESSORS = routed(HunyuanVideoAttnProcessor2_0)
attention_modules = joint_attention


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W] and its text [B, T, C]."""
    side = model.config.patch_size
    return latent_grid(
        kwargs["hidden_states"],
        (model.config.patch_size_t, side, side),
        text_tokens=lengths(kwargs["encoder_hidden_states"]),
    )
