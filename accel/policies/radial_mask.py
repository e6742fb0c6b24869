"""The block masks of Radial Attention (arXiv 2506.19852), computed from block indices alone.

A pair of tokens in frames `d` apart is kept if their positions inside the frame differ by at most a
half-width that halves whenever `d` doubles. F frames of s tokens, B tokens a block.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from accel.patches.grid import TokenGrid
from accel.policies.parts.grid_blocks import block_counts, frame_fragments, join_fragments, text_blocks

Rule = Literal["wan", "hunyuan", "paper"]
Reduction = Literal["any", "strict"]

DROPPED = -1.0
HAS_SINK = {"wan": True, "hunyuan": False, "paper": True}
DECIMATION_WIDTH = 128


def half_widths(
    frames: int, s: int, decay: float, rule: Rule, block: int, decimation_width: int = DECIMATION_WIDTH
) -> list[float]:
    """The half-width in tokens of each frame distance 0..frames-1; -1 where no pair is kept.

    Args:
        decay: scales the widths of distances from 2 on, in (0, 1]; the paper's rule does not have it.
        block: no width is below this many tokens ("wan" and "hunyuan": the published code's rule).
        decimation_width: once the undecayed width is below this, only every n-th distance is kept; the
            published code has 128 whatever the block.
    """
    if rule == "paper":
        return [_paper_width(d, s) for d in range(frames)]
    widths = []
    for distance in range(frames):
        undecayed = _power_above(s) / _power_above(distance)
        kept = undecayed >= decimation_width or distance % int(decimation_width / undecayed) == 0
        width = s if distance <= 1 else max(undecayed * decay, block)
        widths.append(width if kept else DROPPED)
    return widths


def _power_above(x: int) -> int:
    return 1 << x.bit_length()


def _paper_width(distance: int, s: int) -> float:
    narrowing = 1 << (max(distance, 1).bit_length() - 1)
    if narrowing <= s:
        return s / narrowing - 1
    return 0.0 if distance % math.ceil(narrowing / s) == 0 else DROPPED


def keep_any(grid: TokenGrid, widths: list[float], sink: bool, block_size: tuple[int, int]) -> Tensor:
    """Bool [Mb, Nb], on the CPU: blocks in which at least one pair of tokens is kept, for any alignment.

    `sink` keeps the keys of frame 0 for every query. Rows and columns of text are kept.
    """
    queries, keys = (frame_fragments(grid, rows) for rows in block_size)
    apart = (queries.frame[:, None] - keys.frame).abs()
    gap = torch.maximum(keys.first - queries.last[:, None], queries.first[:, None] - keys.last).clamp_(min=0)
    kept = gap <= torch.tensor(widths, dtype=torch.float64)[apart]
    if sink:
        kept |= keys.frame == 0
    keep = join_fragments(kept, queries.block, keys.block, block_counts(grid, block_size))
    return _with_text(keep, grid, block_size)


def keep_strict(grid: TokenGrid, widths: list[float], sink: bool, block: int) -> Tensor:
    """Bool [Mb, Nb], on the CPU: the published code's reduction, which shrinks; for parity only.

    Of a kept block's columns with any kept pair, more than 0.6 have more than a third of it kept. Where
    frames are not a multiple of a block this repeats what that code does, its lost border tiles included.

    Raises:
        ValueError: where that code fails: video tokens no multiple of the block, or text first.
    """
    if grid.video_start:
        raise ValueError(
            "reduction 'strict' is defined for text after the video only, not for text first, "
            f"got {grid.video_start} tokens before the video in {grid}"
        )
    if grid.video_tokens % block:
        raise ValueError(
            f"reduction 'strict' needs a multiple of {block} video tokens, {grid} has {grid.video_tokens}; "
            "use 'any'"
        )
    s, tiles = grid.frame_tokens, math.ceil(grid.frame_tokens / block)
    keep = torch.zeros(block_counts(grid, (block, block)), dtype=torch.bool)
    for i in range(grid.frames):
        rows = slice(i * s // block, i * s // block + tiles)
        for j in range(grid.frames):
            width = s if sink and j == 0 else widths[abs(i - j)]
            if width != DROPPED:
                columns = slice(j * s // block, j * s // block + tiles)
                keep[rows, columns] |= _strict_tiles(
                    s, i * s % block, j * s % block, math.floor(width), block
                )
    return _with_text(keep.fill_diagonal_(True), grid, (block, block))


@lru_cache(maxsize=1024)
def _strict_tiles(s: int, row_offset: int, column_offset: int, width: int, block: int) -> Tensor:
    """Bool [n, n] for a pair of frames that begin `row_offset` and `column_offset` tokens into a block."""
    tiles = math.ceil(s / block)
    columns = torch.arange(tiles * block) - column_offset
    first_row = (torch.arange(tiles) * block - row_offset).clamp(min=0)[:, None]
    last_row = ((torch.arange(tiles) + 1) * block - row_offset).clamp(max=s)[:, None] - 1
    kept = torch.minimum(last_row, columns + width) - torch.maximum(first_row, columns - width) + 1
    kept = (kept.clamp(min=0) * ((columns >= 0) & (columns < s))).reshape(tiles, tiles, block)
    full_columns = (kept * 3 > block).sum(dim=-1)
    return full_columns.double() / ((kept > 0).sum(dim=-1) + 1e-9) > 0.6


def _with_text(keep: Tensor, grid: TokenGrid, block_size: tuple[int, int]) -> Tensor:
    for rows, columns in zip(*(text_blocks(grid, size) for size in block_size), strict=True):
        keep[rows] = True
        keep[:, columns] = True
    return keep
