"""Where the blocks of a sequence lie on a token grid: geometry on the CPU, from block borders alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.restricted import restricted
from accel.kernels.layout.visibility import Visibility
from accel.patches.grid import TokenGrid


class Fragments(NamedTuple):
    """The pieces that block borders and frame borders cut the video tokens into, int64 [P] each.

    Args:
        block: the block that a piece is in.
        frame: the frame that it is in.
        first, last: its first and last position inside that frame, row-major.
    """

    block: Tensor
    frame: Tensor
    first: Tensor
    last: Tensor


def visibility_of(grid: TokenGrid) -> Visibility | None:
    """Which tokens of a grid see which; None where every token sees every other."""
    if not grid.runs:
        return None
    return Visibility(
        tuple((run.tokens, run.tag) for run in grid.runs),
        tuple((run.tokens, run.first, run.last) for run in grid.runs),
    )


def seen_on(grid: TokenGrid, layout: BlockLayout) -> BlockLayout:
    """A layout that was chosen as if every token of a grid saw every other, as its runs have it."""
    visibility = visibility_of(grid)
    return layout if visibility is None else restricted(layout, visibility)


def frame_fragments(grid: TokenGrid, rows: int) -> Fragments:
    """The pieces of `grid` under blocks of `rows` tokens: at most blocks + frames of them."""
    start, end = grid.video_start, grid.video_start + grid.video_tokens
    frame_borders = torch.arange(start, end, grid.frame_tokens)
    block_borders = torch.arange(math.ceil(start / rows) * rows, end, rows)
    firsts = torch.cat([frame_borders, block_borders]).unique()
    lasts = torch.cat([firsts[1:], torch.tensor([end])]) - 1
    in_video = firsts - start
    return Fragments(
        block=firsts // rows,
        frame=in_video // grid.frame_tokens,
        first=in_video % grid.frame_tokens,
        last=(lasts - start) % grid.frame_tokens,
    )


def join_fragments(pairs: Tensor, q_blocks: Tensor, kv_blocks: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bool [Mb, Nb]: blocks with at least one true pair of pieces.

    Args:
        pairs: bool [P, R], pieces of queries against pieces of keys.
        q_blocks, kv_blocks: int64 [P] and [R], ascending, the block of each piece.
        shape: (Mb, Nb).
    """
    by_query = _any_in_block(pairs.T, q_blocks, shape[0])
    return _any_in_block(by_query.T, kv_blocks, shape[1])


def _any_in_block(flags: Tensor, blocks: Tensor, count: int) -> Tensor:
    """Bool [..., P] of pieces -> [..., count] of blocks; `blocks` ascends."""
    totals = torch.nn.functional.pad(flags.cumsum(dim=-1, dtype=torch.int32), (1, 0))
    borders = torch.searchsorted(blocks, torch.arange(count + 1))
    return totals[..., borders[1:]] > totals[..., borders[:-1]]


def text_blocks(grid: TokenGrid, rows: int) -> tuple[slice, slice]:
    """The blocks of `rows` tokens that hold at least one token before the video, and one after it."""
    end = grid.video_start + grid.video_tokens
    after = slice(end // rows, math.ceil(grid.tokens / rows)) if end < grid.tokens else slice(0, 0)
    return slice(0, math.ceil(grid.video_start / rows)), after


def block_counts(grid: TokenGrid, block_size: tuple[int, int]) -> tuple[int, int]:
    """(Mb, Nb) of self-attention over the whole sequence of `grid`."""
    return math.ceil(grid.tokens / block_size[0]), math.ceil(grid.tokens / block_size[1])


def require_grid(
    method: str, q_len: int, kv_len: int, grid: TokenGrid | None, spans: bool = False
) -> TokenGrid:
    """The grid; raises a ValueError if it is missing or is not the grid of these tokens.

    Args:
        spans: whether the method chooses among the blocks of further videos too; they are lead tokens to one
            that does not, since the grid of one video says nothing of what it sees of another.
    """
    if grid is None:
        raise ValueError(f"{method} needs a token grid; this call has none")
    if not q_len == kv_len == grid.tokens:
        raise ValueError(
            f"{method}: the grid {grid} has {grid.tokens} tokens, got {q_len} queries and {kv_len} keys"
        )
    return grid if spans else replace(grid, spans=())
