"""The block masks of Radial Attention (arXiv 2506.19852), computed from block indices alone.

A pair of tokens in frames `d` apart is kept if their positions inside the frame differ by at most a
half-width that halves whenever `d` doubles. F frames of s tokens, B tokens a block.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from accel.patches.grid import TokenGrid
from accel.policies.parts.grid_blocks import block_counts, frame_fragments, join_fragments, text_blocks

Rule = Literal["wan", "hunyuan", "paper"]

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
    return with_text(keep, grid, block_size)


def with_text(keep: Tensor, grid: TokenGrid, block_size: tuple[int, int]) -> Tensor:
    """`keep` with all rows and columns of text."""
    for rows, columns in zip(*(text_blocks(grid, size) for size in block_size), strict=True):
        keep[rows] = True
        keep[:, columns] = True
    return keep
