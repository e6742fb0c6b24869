"""MiniMax-H3: text, references and sound, then the tokens of the video; one packed sequence of one sample.

The tokens of the video that is generated are the last run of video rows. All before them count as lead: text,
sound, keyframes and reference images stay exact, as queries and as keys. Reference videos are spans.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffusers.models.transformers.transformer_minimax_h3 import MiniMaxH3AttnProcessor
from torch import Tensor

from accel.patches.diffusers.reading import leading_raster, modules_named, raster_size
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import Span, TokenGrid

PROCESSORS = routed(MiniMaxH3AttnProcessor)
# The packed attention of the blocks; the text's refiner is not changed.
attention_modules = modules_named("transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from the positions [N, (time, row, column)] of its rows and their modality.

    Raises:
        ValueError: if the rows of the generated video are not last or not a full grid. Reading them costs one
            device read.
    """
    positions, rows = kwargs["position_ids"].cpu(), kwargs["video_indices"].cpu()
    *references, video = runs(rows)
    start = int(video[0])
    if int(rows[-1]) != len(positions) - 1:
        raise ValueError("the rows of the video are not the last of the sequence")
    frames, height, width = raster_size(positions[start:])
    spans = (span for run in references for span in videos(positions, int(run[0]), len(run)))
    return TokenGrid(frames, height, width, lead_tokens=start, spans=tuple(spans))


def runs(rows: Tensor) -> tuple[Tensor, ...]:
    """The runs of consecutive numbers, in order."""
    return rows.tensor_split((rows.diff() != 1).nonzero().flatten() + 1)


def videos(positions: Tensor, start: int, count: int) -> Iterator[Span]:
    """The videos among `count` rows of images and videos that follow one another from row `start` on.

    A video is three frames or more that list one full grid each and are more than 1 apart in time. Images of
    one size are 1 apart, keyframes are two.
    """
    end = start + count
    while start < end:
        try:
            size, rest = leading_raster(positions[start:end])
        except ValueError:
            return
        times = positions[start : end - rest : size[1] * size[2], 0]
        if size[0] >= 3 and (times.diff() > 1).all():
            yield Span(start, *size)
        start = end - rest


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of the last row, which belongs to the generated video; the model counts from 0 to 1."""
    return (1 - kwargs["timestep"][kwargs["timestep_indices"][-1:]]) * 1000
