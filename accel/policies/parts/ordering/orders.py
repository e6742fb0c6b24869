"""Orders of the tokens of a grid: row-major, tiles, windows, Hilbert curve, orders of the axes, residues.

In every order but the row-major one the video tokens come first and the text tokens, unpermuted, last, so
that blocks are cut from the first video token on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.order import TokenOrder
from accel.noun import noun
from accel.patches.grid import TokenGrid
from accel.policies.parts.ordering.hilbert import hilbert_positions

Side = Annotated[int, Field(ge=1)]
AxesName = Literal["fhw", "fwh", "hfw", "hwf", "wfh", "whf"]


@noun
class RowMajor:
    """The order of the sequence."""

    kind: Literal["row_major"] = "row_major"

    def positions(self, grid: TokenGrid) -> Tensor:
        return torch.arange(grid.video_tokens)


@noun
class Tile:
    """Boxes of tokens one after another, row-major among and inside themselves.

    All whole tiles come before all smaller ones, so that tiles of a block's size are blocks.

    Args:
        size: frames, rows and columns of a tile. Where it does not divide the grid, the last tiles of an
            axis are smaller.
    """

    size: tuple[Side, Side, Side]
    kind: Literal["tile"] = "tile"

    def positions(self, grid: TokenGrid) -> Tensor:
        rank = torch.zeros(1, 1, 1, dtype=torch.int64)
        within = torch.zeros_like(rank)
        smaller = torch.zeros_like(rank, dtype=torch.bool)
        for axis, (length, side) in enumerate(
            zip((grid.frames, grid.height, grid.width), self.size, strict=True)
        ):
            place = torch.arange(length).reshape([-1 if other == axis else 1 for other in range(3)])
            tile = place // side
            rank = rank * -(-length // side) + tile
            within = within * side + place % side
            smaller = smaller | ((tile + 1) * side > length)
        tile_volume = self.size[0] * self.size[1] * self.size[2]
        return ((rank + smaller * (rank.max() + 1)) * tile_volume + within).flatten().argsort()


@noun
class Hilbert:
    """A generalised Hilbert curve through the whole grid: any block of it is compact in all three axes."""

    kind: Literal["hilbert"] = "hilbert"

    def positions(self, grid: TokenGrid) -> Tensor:
        return hilbert_positions((grid.frames, grid.height, grid.width))


@noun
class Axes:
    """The axes in another order, slowest first: f frames, h rows, w columns (arXiv 2506.16054)."""

    axes: AxesName
    kind: Literal["axes"] = "axes"

    def positions(self, grid: TokenGrid) -> Tensor:
        box = torch.arange(grid.video_tokens).reshape(grid.frames, grid.height, grid.width)
        return box.permute(["fhw".index(axis) for axis in self.axes]).flatten()


@noun
class Residues:
    """Tokens whose places leave the same remainders one after another (arXiv 2504.16922, 2504.16083).

    It gathers what a dilated window, or a head that looks at every n-th token, sees.

    Args:
        strides: of frames, rows and columns.
    """

    strides: tuple[Side, Side, Side]
    kind: Literal["residues"] = "residues"

    def positions(self, grid: TokenGrid) -> Tensor:
        return numbered(grid, self.strides, torch.remainder).flatten().argsort(stable=True)


def numbered(
    grid: TokenGrid, counts: tuple[int, int, int], on_axis: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Int64 [F, H, W]: for each token one number of the three that its places on the axes are given.

    Args:
        on_axis: (the places on an axis, how many numbers there are for them) -> the number of each, from 0.
    """
    number = torch.zeros(1, 1, 1, dtype=torch.int64)
    for axis, (length, count) in enumerate(zip((grid.frames, grid.height, grid.width), counts, strict=True)):
        places = on_axis(torch.arange(length), count)
        number = number * count + places.reshape([-1 if other == axis else 1 for other in range(3)])
    return number


Order = Annotated[RowMajor | Tile | Hilbert | Axes | Residues, Field(discriminator="kind")]


@noun
class Cycle:
    """Orders that alternate from layer to layer (arXiv 2506.23858)."""

    orders: Annotated[tuple[Order, ...], Field(min_length=1)]
    kind: Literal["cycle"] = "cycle"

    def of_layer(self, layer: int) -> Order:
        return self.orders[layer % len(self.orders)]


@dataclass(frozen=True)
class RolledWindows:
    """Windows at one of their places: see `Windows`; the grid is rolled by `turn` shares of a window."""

    count: tuple[int, int, int]
    shifts: int
    turn: int

    def windows(self, grid: TokenGrid) -> Tensor:
        """Int64 [F, H, W]: the window that each token is in."""
        return numbered(grid, self.count, self._on_axis)

    def positions(self, grid: TokenGrid) -> Tensor:
        return self.windows(grid).flatten().argsort(stable=True)

    def _on_axis(self, places: Tensor, count: int) -> Tensor:
        side = -(-len(places) // count)
        return (places - side // self.shifts * self.turn) % len(places) // side


@noun
class Windows:
    """Equal windows one after another, rolled by another part of a window in each step and layer.

    Every token sees its own window, whatever else is kept (MSW-MSA of HiDiffusion, arXiv 2311.17528). A
    window that is rolled over a border goes on at the opposite one.

    Args:
        count: windows along frames, rows and columns; where they do not divide it, the last are smaller.
        shifts: places that the windows take in turn, each a window's `1 / shifts` from the next.
    """

    count: tuple[Side, Side, Side]
    shifts: Side = 1
    kind: Literal["windows"] = "windows"

    def at_turn(self, turn: int) -> RolledWindows:
        return RolledWindows(self.count, self.shifts, turn % self.shifts)


GridOrder = Order | RolledWindows


@from_sizes()
def token_order(order: GridOrder, grid: TokenGrid, device: torch.device) -> TokenOrder | None:
    """The order of all tokens of `grid`: its video's, each span's, then all others; None if it is the
    sequence's own."""
    if isinstance(order, RowMajor):
        return None
    videos = [order.positions(grid) + grid.video_start]
    videos += [order.positions(span.grid) + span.start for span in grid.spans]
    others = torch.ones(grid.tokens, dtype=torch.bool)
    others[torch.cat(videos)] = False
    return TokenOrder(torch.cat([*videos, others.nonzero().flatten()]).to(device))


def ordered_grid(order: Order, grid: TokenGrid) -> TokenGrid:
    """The grid with its text where `order` puts it."""
    if isinstance(order, RowMajor):
        return grid
    text = grid.tokens - grid.video_tokens
    return replace(grid, text_tokens=text, text_first=False, lead_tokens=0, tail_tokens=0, spans=())
