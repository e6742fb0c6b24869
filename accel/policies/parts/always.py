"""Always: the blocks kept whatever their score: text, the diagonal, and what a recipe adds to them."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.blocks import blocks_of_tokens
from accel.patches.grid import TokenGrid
from accel.policies.parts.grid_blocks import block_counts
from accel.policies.parts.orders import Order, token_order
from accel.policies.parts.window import Window, window_blocks
from accel.policies.policy import STRICT

Tokens = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Always:
    """Blocks kept in addition to the diagonal and the rows and columns of text, which always are.

    Args:
        first_frame: the keys of frame 0.
        own_frame: the keys of the query's own frame.
        adjacent: the keys next to the query along any of the axes, diagonals included.
        window: the keys of a window on the grid.
        sink: the first tokens of a sequence without a grid.
        recent: the tokens before the query, in a sequence without a grid.
    """

    first_frame: bool = False
    own_frame: bool = False
    adjacent: bool = False
    window: Window | None = None
    sink: Tokens = 0
    recent: Tokens = 0

    def blocks(
        self, grid: TokenGrid, order: Order, block_size: tuple[int, int], device: torch.device
    ) -> Tensor:
        """Bool [Mb, Nb] of self-attention over `grid`, its blocks cut in `order`.

        Raises:
            ValueError: if a sink or recent tokens are asked for, which mean nothing on a grid.
        """
        if self.sink or self.recent:
            raise ValueError(
                f"sink and recent are for sequences without a grid, got {self.sink} and {self.recent}"
            )
        return _grid_blocks(self, grid, order, block_size, device)

    def sequence_blocks(
        self, q_len: int, kv_len: int, block_size: tuple[int, int], device: torch.device
    ) -> Tensor:
        """Bool [Mb, Nb] of a sequence whose queries are its last `q_len` tokens.

        Raises:
            ValueError: if frames or a window are asked for, which need a grid.
        """
        if self.first_frame or self.own_frame or self.adjacent or self.window:
            raise ValueError(
                "first_frame, own_frame, adjacent and window need a token grid; this call has none"
            )
        return _sequence_blocks(self.sink, self.recent, q_len, kv_len, block_size, device)


@from_sizes()
def _grid_blocks(
    always: Always, grid: TokenGrid, order: Order, block_size: tuple[int, int], device: torch.device
) -> Tensor:
    cpu = torch.device("cpu")
    rows, columns = (
        blocks_of_tokens(token_order(order, grid, cpu), grid.tokens, size, cpu)[0, 0] for size in block_size
    )
    keep = torch.zeros(block_counts(grid, block_size), dtype=torch.bool)
    keep[rows, columns] = True
    video = slice(grid.video_start, grid.video_start + grid.video_tokens)
    text = torch.ones(grid.tokens, dtype=torch.bool)
    text[video] = False
    keep[rows[text]] = True
    keep[:, columns[text]] = True
    row_box, column_box = (x[video].reshape(grid.frames, grid.height, grid.width) for x in (rows, columns))
    if always.first_frame:
        keep[:, column_box[0].unique()] = True
    if always.own_frame:
        for row_frame, column_frame in zip(row_box, column_box, strict=True):
            keep[row_frame.unique()[:, None], column_frame.unique()] = True
    if always.adjacent:
        _keep_adjacent(keep, row_box, column_box)
    if always.window is not None:
        keep |= window_blocks(always.window, grid, order, row_box, column_box, keep.shape)
    return keep.to(device)


def _keep_adjacent(keep: Tensor, rows: Tensor, columns: Tensor) -> None:
    for step in torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 3).tolist():
        here = [slice(max(0, -d), length - max(0, d)) for d, length in zip(step, rows.shape, strict=True)]
        there = [slice(max(0, d), length + min(0, d)) for d, length in zip(step, rows.shape, strict=True)]
        keep[rows[tuple(here)], columns[tuple(there)]] = True


@from_sizes()
def _sequence_blocks(
    sink: int, recent: int, q_len: int, kv_len: int, block_size: tuple[int, int], device: torch.device
) -> Tensor:
    first_query = torch.arange(0, q_len, block_size[0])[:, None] + kv_len - q_len
    last_query = (first_query + block_size[0]).clamp(max=kv_len) - 1
    first_key = torch.arange(0, kv_len, block_size[1])
    last_key = (first_key + block_size[1]).clamp(max=kv_len) - 1
    keep = (last_key >= first_query - recent) & (first_key <= last_query)
    return (keep | (first_key < sink)).to(device)
