"""PixArt: the tokens of one image; text is read in cross-attention."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0
from torch import nn

from accel.patches.diffusers.reading import modules_like
from accel.patches.diffusers.routed_processor import RoutedProcessor, rerouted
from accel.patches.grid import TokenGrid


class RoutedPixArtProcessor(RoutedProcessor, AttnProcessor2_0):
    """PixArt self-attention with a slot."""

    __call__ = rerouted(AttnProcessor2_0.__call__)


class RoutedFusedPixArtProcessor(RoutedProcessor, FusedAttnProcessor2_0):
    """PixArt self-attention with fused projections and a slot."""

    __call__ = rerouted(FusedAttnProcessor2_0.__call__)


PROCESSORS: dict[type, type] = {
    AttnProcessor2_0: RoutedPixArtProcessor,
    FusedAttnProcessor2_0: RoutedFusedPixArtProcessor,
}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The self-attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W]."""
    height, width = (size // model.config.patch_size for size in kwargs["hidden_states"].shape[2:])
    return TokenGrid(1, height, width)
