"""Window: a box of keys around each query on the grid, in steps, inside its borders (arXiv 2504.16922)."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.boxes import Boxes
from accel.noun import noun
from accel.patches.grid import TokenGrid
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
        causal: along which axes a query sees its own place and those before it alone; their stride is 1.
        exact: whether keys outside the window are left out of the blocks that it cuts, too. Blocks that are
            kept whole hold more, at the same cost, as they are on a grid in which the model itself hides some
            tokens from others.
    """

    size: tuple[Side, Side, Side]
    stride: tuple[Side, Side, Side] = (1, 1, 1)
    dilation: tuple[Side, Side, Side] = (1, 1, 1)
    causal: tuple[bool, bool, bool] = (False, False, False)
    exact: bool = False

    def __post_init__(self) -> None:
        if any(step > side for step, side in zip(self.stride, self.size, strict=True)):
            raise ValueError(f"stride must not exceed size, got {self.stride} and {self.size}")
        if any(step > 1 and causal for step, causal in zip(self.stride, self.causal, strict=True)):
            raise ValueError(f"a causal axis has the stride 1, got {self.stride} and causal {self.causal}")

    def ends(self, axis: int, length: int) -> tuple[Tensor, Tensor]:
        """Int64 [length] each: the first and the last key that each place on one axis sees.

        Under a dilation, of the places of one remainder, of which there are `length`.
        """
        place, side, step = torch.arange(length), min(self.size[axis], length), self.stride[axis]
        if self.causal[axis]:
            return (place - side + 1).clamp(min=0), place
        middle = (place // step * step + step // 2).clamp(max=length - 1)
        first = (middle - side // 2).clamp(min=0, max=length - side)
        return first, first + side - 1

    @from_sizes()
    def boxes(self, grid: TokenGrid) -> Boxes:
        """What each token of the grid's video sees, as the numbers of places: those of one remainder follow
        one another."""
        axes = []
        for axis, length in enumerate((grid.frames, grid.height, grid.width)):
            step, before = self.dilation[axis], 0
            of_places = torch.empty(length, 3, dtype=torch.int64)
            for remainder in range(min(step, length)):
                count = len(range(remainder, length, step))
                ends = torch.stack([torch.arange(count), *self.ends(axis, count)], dim=1)
                of_places[remainder::step] = ends + before
                before += count
            axes.append(tuple(map(tuple, of_places.tolist())))
        return Boxes(tuple(axes), grid.video_start, grid.tokens - grid.video_start - grid.video_tokens)


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
        firsts, lasts = window.ends(axis, length)
        first, last = firsts[queries.low[axis]], lasts[queries.high[axis]]
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
