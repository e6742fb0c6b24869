"""Always: the blocks kept whatever their score: text, the diagonal, and what a recipe adds to them."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.blocks import blocks_of_tokens
from accel.noun import noun
from accel.patches.grid import TokenGrid
from accel.policies.parts.grid_blocks import block_counts
from accel.policies.parts.ordering.content_orders import ContentOrder
from accel.policies.parts.ordering.orders import GridOrder, RolledWindows, token_order
from accel.policies.parts.window import Window, window_blocks

Tokens = Annotated[int, Field(ge=0)]
GRID_FIELDS = ("first_frame", "own_frame", "adjacent", "window", "reference_frames", "band", "neighbours")
SEQUENCE_FIELDS = ("sink", "recent", "recent_share", "powers", "every")


@noun
class Always:
    """Blocks kept in addition to the diagonal and the rows and columns of text, which always are.

    Args:
        first_frame: the keys of frame 0.
        own_frame: the keys of the query's own frame.
        adjacent: the keys next to the query along any of the axes, diagonals included.
        window: the keys of a window on the grid.
        reference_frames: how many frames, spread evenly from the first on, see every token and are seen by
            every token (the masks of arXiv 2502.06155).
        band: keys at most half of this share of the video tokens away in the order, in [0, 2].
        neighbours: how many blocks of keys before and after the query's own, in the order they are cut from.
        sink: the first tokens of a sequence without a grid.
        recent: the tokens before the query, in a sequence without a grid; may be negative with a share.
        recent_share: the share of the sequence that is recent in addition (the spans of arXiv 2406.14909).
        powers: blocks a power of two before the query's own, in a sequence without a grid (arXiv 2503.03588).
        every: one block in so many is kept, in a sequence without a grid; 0 keeps none (the vertical
            strides of arXiv 2407.17678).
    """

    first_frame: bool = False
    own_frame: bool = False
    adjacent: bool = False
    window: Window | None = None
    reference_frames: Tokens = 0
    band: Annotated[float, Field(ge=0, le=2)] = 0.0
    neighbours: Annotated[int, Field(ge=0)] = 0
    sink: Tokens = 0
    recent: int = 0
    recent_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    powers: bool = False
    every: Tokens = 0

    def __post_init__(self) -> None:
        if self.recent < 0 and not self.recent_share:
            raise ValueError(f"recent must be at least 0 without recent_share, got {self.recent}")

    @from_sizes()
    def blocks(
        self,
        grid: TokenGrid,
        order: GridOrder | ContentOrder,
        block_size: tuple[int, int],
        device: torch.device,
    ) -> Tensor:
        """Bool [Mb, Nb] of self-attention over `grid`, its blocks cut in `order`.

        Raises:
            ValueError: if what belongs to sequences is asked for, which means nothing on a grid.
        """
        self._refuse("are for sequences without a grid", SEQUENCE_FIELDS)
        keep = torch.zeros(block_counts(grid, block_size), dtype=torch.bool)
        video = slice(grid.video_start, grid.video_start + grid.video_tokens)
        text = torch.ones(grid.tokens, dtype=torch.bool)
        for taken in (video, *(span.place for span in grid.spans)):
            text[taken] = False
        if isinstance(order, ContentOrder):
            # Text comes after the video tokens, whatever their order.
            rows, columns = (torch.arange(grid.tokens) // size for size in block_size)
            text = torch.arange(grid.tokens) >= grid.video_tokens
        else:
            cpu = torch.device("cpu")
            place = token_order(order, grid, cpu)
            rows, columns = (blocks_of_tokens(place, grid.tokens, size, cpu)[0, 0] for size in block_size)
            keep[rows, columns] = True
            _keep_on_grid(self, keep, grid, order, rows[video], columns[video])
            for span in grid.spans:
                _keep_on_grid(self, keep, span.grid, order, rows[span.place], columns[span.place])
            if self.band:
                keep |= _band(round(self.band * grid.video_tokens / 2), keep.shape, block_size)
        if self.neighbours:
            keep |= _band((self.neighbours - 1) * block_size[1] + 1, keep.shape, block_size)
        keep[rows[text]] = True
        keep[:, columns[text]] = True
        return keep.to(device)

    @from_sizes()
    def sequence_blocks(
        self, q_len: int, kv_len: int, block_size: tuple[int, int], device: torch.device
    ) -> Tensor:
        """Bool [Mb, Nb] of a sequence whose queries are its last `q_len` tokens.

        Raises:
            ValueError: if what needs a grid is asked for.
        """
        self._refuse("need a token grid; this call has none", GRID_FIELDS)
        first_query = torch.arange(0, q_len, block_size[0])[:, None] + kv_len - q_len
        last_query = (first_query + block_size[0]).clamp(max=kv_len) - 1
        first_key = torch.arange(0, kv_len, block_size[1])
        last_key = (first_key + block_size[1]).clamp(max=kv_len) - 1
        recent = max(self.recent + math.ceil(self.recent_share * kv_len), 0)
        keep = (last_key >= first_query - recent) & (first_key <= last_query)
        keep = keep | (first_key < self.sink)
        blocks_back = last_query // block_size[1] - torch.arange(len(first_key))
        if self.powers:
            keep = keep | ((blocks_back > 0) & (blocks_back & (blocks_back - 1) == 0))
        if self.every:
            keep = keep | (torch.arange(len(first_key)) % self.every == 0)
        return keep.to(device)

    def _refuse(self, why: str, names: tuple[str, ...]) -> None:
        asked = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name)]
        if asked:
            raise ValueError(f"{', '.join(names)} {why}, got {', '.join(asked)}")


def _keep_on_grid(
    always: Always, keep: Tensor, grid: TokenGrid, order: GridOrder, rows: Tensor, columns: Tensor
) -> None:
    row_box, column_box = (x.reshape(grid.frames, grid.height, grid.width) for x in (rows, columns))
    if always.first_frame:
        keep[:, column_box[0].unique()] = True
    if always.own_frame:
        for row_frame, column_frame in zip(row_box, column_box, strict=True):
            keep[row_frame.unique()[:, None], column_frame.unique()] = True
    if isinstance(order, RolledWindows):
        windows = order.windows(grid)
        for window in range(math.prod(order.count)):
            inside = windows == window
            keep[row_box[inside].unique()[:, None], column_box[inside].unique()] = True
    if always.adjacent:
        _keep_adjacent(keep, row_box, column_box)
    if always.window is not None:
        keep |= window_blocks(always.window, order, row_box, column_box, keep.shape)
    if always.reference_frames:
        count = min(always.reference_frames, grid.frames)
        frames = torch.arange(count) * grid.frames // count
        keep[row_box[frames].unique()] = True
        keep[:, column_box[frames].unique()] = True


def _band(reach: int, shape: torch.Size, block_size: tuple[int, int]) -> Tensor:
    """Bool [Mb, Nb]: blocks with a query and a key at most `reach` apart in the order they are cut from."""
    first_query = torch.arange(shape[0])[:, None] * block_size[0]
    first_key = torch.arange(shape[1]) * block_size[1]
    last_query, last_key = first_query + block_size[0] - 1, first_key + block_size[1] - 1
    return (first_key - last_query <= reach) & (first_query - last_key <= reach)


def _keep_adjacent(keep: Tensor, rows: Tensor, columns: Tensor) -> None:
    for step in torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 3).tolist():
        here = [slice(max(0, -d), length - max(0, d)) for d, length in zip(step, rows.shape, strict=True)]
        there = [slice(max(0, d), length + min(0, d)) for d, length in zip(step, rows.shape, strict=True)]
        keep[rows[tuple(here)], columns[tuple(there)]] = True
