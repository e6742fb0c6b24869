"""Allegro: video tokens only."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import AllegroAttnProcessor2_0
from torch import nn

from accel.patches.diffusers.reading import latent_grid, modules_like
from accel.patches.diffusers.seated_processor import SeatedProcessor, rerouted
from accel.patches.grid import TokenGrid


class SeatedAllegroProcessor(SeatedProcessor, AllegroAttnProcessor2_0):
    """Allegro self-attention with a seat."""

    __call__ = rerouted(AllegroAttnProcessor2_0.__call__)


SEATED: dict[type, type] = {AllegroAttnProcessor2_0: SeatedAllegroProcessor}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The self-attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W]."""
    side = model.config.patch_size
    return latent_grid(kwargs["hidden_states"], (model.config.patch_size_t, side, side))
