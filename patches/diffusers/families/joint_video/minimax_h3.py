"""MiniMax-H3: text, references and sound, then the tokens of the video; one packed sequence of one sample.

The tokens of the video that is generated are the last run of video rows. All before them count as lead: text,
sound, keyframes and references stay exact, as queries and as keys.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_minimax_h3 import MiniMaxH3AttnProcessor
from torch import Tensor

from accel.patches.diffusers.reading import modules_named, raster_size
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(MiniMaxH3AttnProcessor)
# The packed attention of the blocks; the text's refiner is not changed.
attention_modules = modules_named("transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from the positions [N, (time, row, column)] of its rows and their modality.

    Raises:
        ValueError: if the rows of the generated video are not last or not a full grid. Reading them costs one
            device read.
    """
    positions, rows = kwargs["position_ids"], kwargs["video_indices"].cpu()
    start = int(rows[last_run(rows)])
    if int(rows[-1]) != len(positions) - 1:
        raise ValueError("the rows of the video are not the last of the sequence")
    frames, height, width = raster_size(positions[start:])
    return TokenGrid(frames, height, width, lead_tokens=start)


def last_run(rows: Tensor) -> int:
    """Where the last run of consecutive numbers begins."""
    breaks = (rows.diff() != 1).nonzero()
    return int(breaks[-1]) + 1 if len(breaks) else 0


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of the last row, which belongs to the generated video; the model counts from 0 to 1."""
    return (1 - kwargs["timestep"][kwargs["timestep_indices"][-1:]]) * 1000
