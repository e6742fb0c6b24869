"""Window: a box of keys around each query on the grid, in steps, inside its borders (arXiv 2504.16922)."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from accel.noun import noun
from accel.policies.parts.grid_blocks import join_fragments
from accel.policies.parts.ordering.orders import GridOrder, Residues, RowMajor, Side, Tile


@noun
class Window:
    """Neighbourhood attention (stride 1), sliding tiles (stride and size in whole tiles), and between.

    Queries i of one stride share the window of their middle, which is moved inwards at the borders so that
    every query sees the same number of keys.

    Args:
        size: frames, rows and columns of the window in tokens; a side longer than the grid is the whole side.
        stride: frames, rows and columns after which the window moves, at most `size`.
        dilation: every how many frames, rows and columns a query looks; the window is then one of `size`
            among the places that leave the query's remainder, which `order: {kind: residues}` of the same
            strides puts together.
    """

    size: tuple[Side, Side, Side]
    stride: tuple[Side, Side, Side] = (1, 1, 1)
    dilation: tuple[Side, Side, Side] = (1, 1, 1)

    def __post_init__(self) -> None:
        if any(step > side for step, side in zip(self.stride, self.size, strict=True)):
            raise ValueError(f"stride must not exceed size, got {self.stride} and {self.size}")

    def starts(self, axis: int, length: int) -> Tensor:
        """Int64 [length]: the first key that each place on one axis sees; the window is `side` long.

        Under a dilation, of the places of one remainder, of which there are `length`.
        """
        step = self.stride[axis]
        middle = (torch.arange(length) // step * step + step // 2).clamp(max=length - 1)
        return (middle - self.side(axis, length) // 2).clamp(min=0, max=length - self.side(axis, length))

    def side(self, axis: int, length: int) -> int:
        return min(self.size[axis], length)


def window_blocks(
    window: Window, order: GridOrder, rows: Tensor, columns: Tensor, shape: torch.Size
) -> Tensor:
    """Bool [Mb, Nb]: blocks some query of which has some key in its window.

    A block is taken for the boxes around its pieces: one per tile or image row it touches; on a Hilbert curve
    and for reordered axes, one in all, which may add blocks.

    Args:
        rows, columns: int64 [F, H, W], the query and key block of each token.
    """
    seen = torch.zeros(shape, dtype=torch.bool)
    for remainders in product(*(range(step) for step in window.dilation)):
        part = tuple(
            slice(first, None, step) for first, step in zip(remainders, window.dilation, strict=True)
        )
        if rows[part].numel():
            seen |= _of_one_remainder(window, order, rows[part], columns[part], shape)
    return seen


def _of_one_remainder(
    window: Window, order: GridOrder, rows: Tensor, columns: Tensor, shape: torch.Size
) -> Tensor:
    queries, keys = (_pieces(order, blocks, window.dilation) for blocks in (rows, columns))
    seen = torch.ones(len(queries.block), len(keys.block), dtype=torch.bool)
    for axis, length in enumerate(rows.shape):
        starts = window.starts(axis, length)
        first, last = starts[queries.low[axis]], starts[queries.high[axis]] + window.side(axis, length) - 1
        seen &= (keys.low[axis] <= last[:, None]) & (keys.high[axis] >= first[:, None])
    return join_fragments(seen, queries.block, keys.block, (shape[0], shape[1]))


class _Pieces(NamedTuple):
    """Boxes [3, P] around what a tile and a block share, and the block of each, ascending."""

    block: Tensor
    low: Tensor
    high: Tensor


def _pieces(order: GridOrder, blocks: Tensor, dilation: tuple[int, int, int]) -> _Pieces:
    shape = (blocks.shape[0], blocks.shape[1], blocks.shape[2])
    places = torch.cartesian_prod(*(torch.arange(length) for length in shape)).T  # [3, V]
    tile = torch.zeros(blocks.numel(), dtype=torch.int64)
    for place, side, length in zip(places, _tile_sides(order, shape, dilation), shape, strict=True):
        tile = tile * -(-length // side) + place // side
    tiles = int(tile.max()) + 1
    piece, owner = (blocks.flatten() * tiles + tile).unique(return_inverse=True)
    low = torch.full((3, len(piece)), blocks.numel()).scatter_reduce(1, owner.expand(3, -1), places, "amin")
    high = torch.full((3, len(piece)), -1).scatter_reduce(1, owner.expand(3, -1), places, "amax")
    return _Pieces(piece // tiles, low, high)


def _tile_sides(
    order: GridOrder, shape: tuple[int, int, int], dilation: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Of the boxes that a block is cut into, in places of one remainder."""
    if isinstance(order, Tile):
        frames, rows, columns = (
            max(side // step, 1) for side, step in zip(order.size, dilation, strict=True)
        )
        return frames, rows, columns
    return (1, 1, shape[2]) if isinstance(order, RowMajor | Residues) else shape
