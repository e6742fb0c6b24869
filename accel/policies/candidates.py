"""Candidates: the key blocks that a search may choose from, for each block of queries."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from accel.kernels.blocks import causal_blocks
from accel.patches.grid import TokenGrid
from accel.policies.always import Always
from accel.policies.orders import Order


class Candidates(NamedTuple):
    """What is kept anyway, and a list of what may be found besides.

    Args:
        must: bool [Mb, Nb], blocks that are always kept and never searched.
        table: int64 [Mb, Nb]; the first `counts` entries of a row are its candidates, ascending.
        counts: int64 [Mb].
        most: the largest count.
    """

    must: Tensor
    table: Tensor
    counts: Tensor
    most: int


@lru_cache(maxsize=64)
def grid_candidates(
    grid: TokenGrid, order: Order, block_size: tuple[int, int], device: torch.device
) -> Candidates:
    """All blocks but those of text and of the diagonal, which are always kept."""
    must = Always().blocks(grid, order, block_size, torch.device("cpu"))
    return _candidates(must, torch.ones_like(must), device)


@lru_cache(maxsize=64)
def sequence_candidates(
    q_len: int, kv_len: int, sink: int, window: int, block_size: tuple[int, int], device: torch.device
) -> Candidates:
    """All blocks of the past but the first `sink` tokens and the `window` before the queries: always kept."""
    may = causal_blocks(block_size, q_len, kv_len)
    always = Always(sink=sink, recent=window)
    must = always.sequence_blocks(q_len, kv_len, block_size, torch.device("cpu")) & may
    return _candidates(must, may, device)


def _candidates(must: Tensor, may: Tensor, device: torch.device) -> Candidates:
    free = may & ~must
    table = (~free).int().argsort(dim=1, stable=True)
    counts = free.sum(dim=1)
    return Candidates(must.to(device), table.to(device), counts.to(device), int(counts.max()))
