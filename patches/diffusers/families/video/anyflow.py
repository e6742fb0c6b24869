"""AnyFlow, bidirectional: video tokens; text is read in cross-attention."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_anyflow import AnyFlowAttnProcessor
from torch import nn

from accel.patches.diffusers.reading import latent_grid, modules_like
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted
from accel.patches.grid import TokenGrid


class RoutedAnyFlowProcessor(DispatchingProcessor, AnyFlowAttnProcessor):  # type: ignore[misc]
    """AnyFlow self-attention with a slot."""

    __call__ = rerouted(AnyFlowAttnProcessor.__call__)


PROCESSORS: dict[type, type] = {AnyFlowAttnProcessor: RoutedAnyFlowProcessor}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The self-attention of the blocks."""
    return modules_like(model, "blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, F, C, H, W]."""
    return latent_grid(kwargs["hidden_states"], model.config.patch_size, axes=(1, 3, 4))
