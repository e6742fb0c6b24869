"""HunyuanImage 2.1 and its refiner: the tokens of one image, then text, whose padding is masked."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_hunyuanimage import HunyuanImageAttnProcessor

from accel.patches.diffusers.reading import joint_attention, lengths
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "last"
PROCESSORS = routed(HunyuanImageAttnProcessor)
attention_modules = joint_attention


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W], or [B, C, F, H, W], and its two texts.

    The second text takes part only in a model that has an embedder for it.
    """
    latent = kwargs["hidden_states"]
    sizes = [size // side for size, side in zip(latent.shape[2:], model.config.patch_size, strict=True)]
    frames, height, width = [1] * (3 - len(sizes)) + sizes
    second = kwargs.get("encoder_hidden_states_2") if model.context_embedder_2 is not None else None
    return TokenGrid(frames, height, width, text_tokens=lengths(kwargs["encoder_hidden_states"], second))
