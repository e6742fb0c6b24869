"""Motif-Video: video tokens, then image and text embeddings with the text's padding last."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_motif_video import MotifVideoAttnProcessor2_0
from torch import Tensor

from accel.patches.diffusers.reading import joint_attention, latent_grid, lengths
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "last"
PROCESSORS = routed(MotifVideoAttnProcessor2_0)
attention_modules = joint_attention


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W] and its embeddings [B, T, C].

    Raises:
        ValueError: if padding comes before text; finding out costs one device read for each forward.
    """
    mask = kwargs.get("encoder_attention_mask")
    if mask is not None and not padding_is_last(mask.bool()):
        raise ValueError("padding before text")
    side = model.config.patch_size
    return latent_grid(
        kwargs["hidden_states"],
        (model.config.patch_size_t, side, side),
        text_tokens=lengths(kwargs["encoder_hidden_states"], kwargs.get("image_embeds")),
    )


def padding_is_last(mask: Tensor) -> bool:
    """Whether every sample of a bool mask [B, T] shows its first tokens and hides the rest."""
    return not bool((mask[:, 1:] & ~mask[:, :-1]).any())
