"""Candidates: the key blocks that a search may choose from, for each block of queries."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.patches.grid import TokenGrid
from accel.policies.parts.always import Always
from accel.policies.parts.ordering.orders import Order


class GridCandidates(NamedTuple):
    """What is kept anyway, and a list of what else may be found.

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

    def blocks(self, rows: slice, places: Tensor) -> Tensor:
        """Int64 like `places`, [..., R, C]: the blocks at these places of the lists of `rows`."""
        table = self.table[rows].expand(*places.shape[:-1], -1)
        return table.gather(-1, places.clamp(max=table.shape[-1] - 1))


class SequenceCandidates(NamedTuple):
    """The same for a causal sequence, whose candidates are one run of blocks: linear in its length.

    Args:
        must: int64 [Mb, W], blocks that are always kept, ascending; Nb where a row has fewer.
        first: the first candidate of every row.
        counts: int64 [Mb].
        most: the largest count.
    """

    must: Tensor
    first: int
    counts: Tensor
    most: int

    def blocks(self, rows: slice, places: Tensor) -> Tensor:
        """Int64 like `places`: the blocks at these places of the lists of `rows`."""
        return self.first + places


Candidates = GridCandidates | SequenceCandidates


@from_sizes()
def grid_candidates(
    grid: TokenGrid, order: Order, block_size: tuple[int, int], device: torch.device
) -> GridCandidates:
    """All blocks except text and the diagonal, which are always kept."""
    must = Always().blocks(grid, order, block_size, torch.device("cpu"))
    table = must.int().argsort(dim=1, stable=True)
    counts = (~must).sum(dim=1)
    return GridCandidates(must.to(device), table.to(device), counts.to(device), int(counts.max()))


@from_sizes()
def sequence_candidates(
    q_len: int, kv_len: int, sink: int, window: int, block_size: tuple[int, int], device: torch.device
) -> SequenceCandidates:
    """All blocks of the past but the first `sink` tokens and the `window` before the queries: always kept."""
    rows, columns = block_size
    blocks, sinks = math.ceil(kv_len / columns), math.ceil(min(sink, kv_len) / columns)
    first_query = torch.arange(0, q_len, rows) + kv_len - q_len
    seen = (first_query + rows).clamp(max=kv_len).sub(1) // columns + 1
    recent = (first_query - window).clamp(min=0) // columns
    sink_blocks = torch.arange(sinks).expand(len(recent), -1)
    recent_blocks = recent[:, None] + torch.arange(int((seen - recent).max()))
    must = torch.cat(
        [
            sink_blocks.where(sink_blocks < recent[:, None], blocks),
            recent_blocks.where(recent_blocks < seen[:, None], blocks),
        ],
        dim=1,
    )
    counts = (recent - sinks).clamp(min=0)
    return SequenceCandidates(must.sort(dim=1).values.to(device), sinks, counts.to(device), int(counts.max()))
