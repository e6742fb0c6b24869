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
from torch import Tensor

from accel.patches.diffusers.reading import modules_named, raster_size
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(LTXVideoAttnProcessor, LTX2AudioVideoAttnProcessor, LTX2PerturbedAttnProcessor)
attention_modules = modules_named("transformer_blocks.*.attn1")


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
