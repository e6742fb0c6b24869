"""LTX-Video and LTX-2: video tokens only; of LTX-2's six attentions a block, the video's own.

Their latents come packed, so the forward is given frames, rows and columns. Conditions on further frames are
extra tokens, which policies keep whole: LTX-2's come after the video, LTX-Video's before it, where
the forward is given coordinates instead of sizes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers.models.transformers.transformer_ltx import LTXVideoAttnProcessor
from diffusers.models.transformers.transformer_ltx2 import (
    LTX2AudioVideoAttnProcessor,
    LTX2PerturbedAttnProcessor,
)
from torch import Tensor, nn

from accel.patches.diffusers.reading import modules_like, raster_size
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted
from accel.patches.grid import TokenGrid


class RoutedLTXProcessor(DispatchingProcessor, LTXVideoAttnProcessor):  # type: ignore[misc]
    """LTX-Video self-attention with a slot."""

    __call__ = rerouted(LTXVideoAttnProcessor.__call__)


class RoutedLTX2Processor(DispatchingProcessor, LTX2AudioVideoAttnProcessor):  # type: ignore[misc]
    """LTX-2 video self-attention with a slot."""

    __call__ = rerouted(LTX2AudioVideoAttnProcessor.__call__)


class RoutedLTX2PerturbedProcessor(DispatchingProcessor, LTX2PerturbedAttnProcessor):  # type: ignore[misc]
    """LTX-2 video self-attention of a perturbed model, with a slot."""

    __call__ = rerouted(LTX2PerturbedAttnProcessor.__call__)


PROCESSORS: dict[type, type] = {
    LTXVideoAttnProcessor: RoutedLTXProcessor,
    LTX2AudioVideoAttnProcessor: RoutedLTX2Processor,
    LTX2PerturbedAttnProcessor: RoutedLTX2PerturbedProcessor,
}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The video self-attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid that one forward is given, in latent units; both models cut patches of 1."""
    if kwargs.get("num_frames") is None:
        return grid_of_coordinates(kwargs["video_coords"])
    grid = TokenGrid(kwargs["num_frames"], kwargs["height"], kwargs["width"])
    conditions = max(kwargs["hidden_states"].shape[1] - grid.tokens, 0)
    return replace(grid, text_tokens=conditions)


def grid_of_coordinates(coordinates: Tensor) -> TokenGrid:
    """The grid of tokens at [B, (time, row, column), N]: a video, behind conditions of later times than 0.

    Raises:
        ValueError: if what follows the last step back in time is not a full grid. Costs one device read.
    """
    positions = coordinates[0].T.cpu()
    steps_back = (positions[1:, 0] < positions[:-1, 0]).nonzero()
    lead = int(steps_back[-1]) + 1 if len(steps_back) else 0
    return TokenGrid(*raster_size(positions[lead:]), lead_tokens=lead)
