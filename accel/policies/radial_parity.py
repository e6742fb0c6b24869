"""The reduction of Radial Attention's published code (arXiv 2506.19852), only for parity.

It shrinks masks. No recipe uses it: `reduction: strict` refuses the shapes on which that code fails.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from accel.patches.grid import TokenGrid
from accel.policies.parts.grid_blocks import block_counts
from accel.policies.radial_mask import DROPPED, with_text


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
    return with_text(keep.fill_diagonal_(True), grid, (block, block))


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
