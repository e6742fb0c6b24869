"""Cosmos 1, 2 and 2.5 (Predict and Transfer): video tokens only.

Its processor calls diffusers' dispatcher without a backend of its own, so the seat is reached as long as the
process-wide backend is PyTorch's, the default; under another one the sites are reported as never called.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_cosmos import CosmosAttnProcessor2_0
from torch import nn

from accel.patches.grid import TokenGrid
from accel.patches.reading import latent_grid, modules_like
from accel.patches.seated_processor import SeatedProcessor, rerouted


class SeatedCosmosProcessor(SeatedProcessor, CosmosAttnProcessor2_0):
    """Cosmos self-attention with a seat."""

    __call__ = rerouted(CosmosAttnProcessor2_0.__call__)


SEATED: dict[type, type] = {CosmosAttnProcessor2_0: SeatedCosmosProcessor}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The self-attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W]."""
    return latent_grid(kwargs["hidden_states"], model.config.patch_size)
