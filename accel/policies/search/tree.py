"""Tree search for the best keys of a row without scoring all of them (HiP, arXiv 2406.09827)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout.order import TokenOrder
from accel.noun import noun
from accel.policies.search.candidates import Candidates, SequenceCandidates
from accel.policies.search.probing import (
    best_logits,
    every_stride,
    per_block,
    representatives,
    strided_queries,
)

Stride = Annotated[int, Field(ge=1, le=128)]


@noun
class Tree:
    """Groups of key blocks, halved until they are single blocks.

    Args:
        query_stride, key_stride: every how many-th query of a block, and key of a block, is scored.
    """

    query_stride: Stride = 4
    key_stride: Stride = 16
    kind: Literal["tree"] = "tree"

    def gathered_keys(self, most: int, budget: int, key_rows: int) -> int:
        """How many keys one block of queries looks at at once."""
        return 2 * budget * math.ceil(key_rows / self.key_stride)

    def find(
        self,
        q: Tensor,
        k: Tensor,
        rows: slice,
        candidates: Candidates,
        block_size: tuple[int, int],
        budget: int,
    ) -> tuple[Tensor, Tensor]:
        """Places on the lists of candidates, int64 [B, H, R, C], and whether they are valid, for `rows`."""
        queries = strided_queries(q, rows, block_size[0], self.query_stride)
        inside = every_stride(block_size[1], self.key_stride, q.device)

        def score(places: Tensor) -> Tensor:
            keys = (candidates.blocks(rows, places)[..., None] * block_size[1] + inside).flatten(-2)
            return best_logits(queries, k, keys).unflatten(-1, (-1, len(inside))).amax(dim=-1)

        counts = candidates.counts[rows].expand(1, 1, -1)
        return search_tree(score, counts, candidates.most, budget)

    def find_on_gpu(
        self,
        q: Tensor,
        k: Tensor,
        order: TokenOrder | None,
        candidates: Candidates,
        block_size: tuple[int, int],
        budget: int,
    ) -> Tensor | None:
        """Int64 [B, H, Mb, budget], what `find` finds for all rows, as blocks: ascending, then Nb where there
        are fewer. None if the kernel does not take the call.

        Args:
            order: what blocks are cut from, which is not yet the order of q and k.
        """
        from accel.kernels.planning.tree_triton import find_in_tree, takes

        rows, columns = block_size
        each = per_block(rows, self.query_stride), per_block(columns, self.key_stride)
        levels = _levels(candidates.most, budget)
        if not takes(q, each, math.ceil(k.shape[2] / columns), budget, levels):
            return None
        if isinstance(candidates, SequenceCandidates):
            table, first = None, candidates.first
        else:
            table, first = candidates.table, 0
        queries = representatives(q, order, rows, self.query_stride)
        keys = representatives(k, order, columns, self.key_stride)
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device_of(q):
            return find_in_tree(queries, keys, each, table, first, candidates.counts, budget, levels)


def search_tree(
    score: Callable[[Tensor], Tensor], counts: Tensor, most: int, budget: int
) -> tuple[Tensor, Tensor]:
    """Halve groups of candidates, keeping the `budget` best halves, until they are single.

    A half is judged by the one in its middle, so a peak next to a weak one is lost. Scores are
    compared unrounded, in float32.

    Args:
        score: int64 [..., C] candidates -> float32 [..., C].
        counts: int64 [...], candidates of each row; those of a row are 0..count - 1.
        most: the largest count.
        budget: how many to keep.

    Returns:
        Candidates, int64 [..., budget], and bool whether they are valid; the valid ones ascend and come
        first. A row with no more candidates than the budget gets all of them. Ties go to the lower slot.
    """
    counts = counts[..., None]
    group = torch.arange(budget, device=counts.device)
    start = counts * group // budget
    size = counts * (group + 1) // budget - start
    for _ in range(_levels(most, budget)):
        half = size // 2
        start = torch.stack([start, start + half], dim=-1).flatten(-2)
        size = torch.stack([half, size - half], dim=-1).flatten(-2)
        # An empty half may point outside; it is never kept before a real one.
        scores = score((start + size // 2).minimum((counts - 1).clamp(min=0)))
        best = scores.masked_fill(size == 0, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        start, size = (x.expand(best.shape).gather(-1, best[..., :budget]) for x in (start, size))
    start = torch.where(size > 0, start, most).sort(dim=-1).values
    return start, start < most


def _levels(most: int, budget: int) -> int:
    """How often `budget` groups of `most` candidates are halved until all are single."""
    return (math.ceil(most / budget) - 1).bit_length()
