"""Allegro: video tokens only."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import AllegroAttnProcessor2_0
from torch import nn

from accel.patches.diffusers.reading import latent_grid, modules_like
from accel.patches.diffusers.routed_processor import RoutedProcessor, rerouted
from accel.patches.grid import TokenGrid


class RoutedAllegroProcessor(RoutedProcessor, AllegroAttnProcessor2_0):
    """Allegro self-attention with a slot."""

    __call__ = rerouted(AllegroAttnProcessor2_0.__call__)


PROCESSORS: dict[type, type] = {AllegroAttnProcessor2_0: RoutedAllegroProcessor}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The self-attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W]."""
    side = model.config.patch_size
    return latent_grid(kwargs["hidden_states"], (model.config.patch_size_t, side, side))
