"""Krea 2: text, whose padding is masked and comes before its last tokens, then the tokens of one image."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_krea2 import Krea2AttnProcessor
from torch import nn

from accel.patches.diffusers.families.image.positions import unit_timestep
from accel.patches.diffusers.reading import lengths, modules_like, raster_size
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted
from accel.patches.grid import TokenGrid

TEXT_PADDING = "anywhere"


class RoutedKrea2Processor(DispatchingProcessor, Krea2AttnProcessor):  # type: ignore[misc]
    """Krea 2 joint attention with a slot."""

    __call__ = rerouted(Krea2AttnProcessor.__call__)


PROCESSORS: dict[type, type] = {Krea2AttnProcessor: RoutedKrea2Processor}

read_timestep = unit_timestep


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the blocks; the fusion of text layers stays as it is."""
    return modules_like(model, "transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from the positions [N, 3] of text and image, and its text [B, T, L, C].

    Raises:
        ValueError: if the positions do not list one full grid row by row. Reading them costs one device read.
    """
    text = lengths(kwargs["encoder_hidden_states"])
    frames, height, width = raster_size(kwargs["position_ids"][text:])
    return TokenGrid(frames, height, width, text_tokens=text, text_first=True)
