"""PixArt: the tokens of one image; text is read in cross-attention."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0
from torch import nn

from accel.patches.diffusers.reading import modules_like
from accel.patches.diffusers.seated_processor import SeatedProcessor, rerouted
from accel.patches.grid import TokenGrid


class SeatedPixArtProcessor(SeatedProcessor, AttnProcessor2_0):
    """PixArt self-attention with a seat."""

    __call__ = rerouted(AttnProcessor2_0.__call__)


class SeatedFusedPixArtProcessor(SeatedProcessor, FusedAttnProcessor2_0):
    """PixArt self-attention with fused projections and a seat."""

    __call__ = rerouted(FusedAttnProcessor2_0.__call__)


SEATED: dict[type, type] = {
    AttnProcessor2_0: SeatedPixArtProcessor,
    FusedAttnProcessor2_0: SeatedFusedPixArtProcessor,
}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The self-attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W]."""
    height, width = (size // model.config.patch_size for size in kwargs["hidden_states"].shape[2:])
    return TokenGrid(1, height, width)
