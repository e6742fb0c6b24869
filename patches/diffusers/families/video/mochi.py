"""Mochi: video tokens, then text; the processor calls attention for each sample with its valid text alone."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import MochiAttnProcessor2_0
from torch import Tensor, nn

from accel.patches.diffusers.reading import latent_grid, lengths, modules_like
from accel.patches.diffusers.routed_processor import RoutedProcessor, rerouted
from accel.patches.grid import TokenGrid

TEXT_PADDING = "dropped"


class RoutedMochiProcessor(RoutedProcessor, MochiAttnProcessor2_0):
    """Mochi joint attention with a slot, called once for each sample."""

    __call__ = rerouted(MochiAttnProcessor2_0.__call__)


PROCESSORS: dict[type, type] = {MochiAttnProcessor2_0: RoutedMochiProcessor}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W] and its padded text [B, T, C]."""
    side = model.config.patch_size
    return latent_grid(
        kwargs["hidden_states"], (1, side, side), text_tokens=lengths(kwargs["encoder_hidden_states"])
    )


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of one forward; Mochi's own grows as noise falls."""
    return 1000 - kwargs["timestep"]
