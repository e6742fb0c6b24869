"""Pruning in stages: chunks judged by one key each, then smaller ones (InfiniteHiP, arXiv 2502.08910)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from accel.noun import noun
from accel.policies.search.candidates import Candidates
from accel.policies.search.probing import best_logits, mean_queries

Stride = Literal[1, 2, 4, 8, 16]


@noun
class Stages:
    """Chunks of keys, judged by one key each, then smaller ones, down to key blocks.

    From chunks to blocks the number of keys that are looked at falls geometrically to the budget.

    Args:
        query_stride: how many consecutive queries are averaged before they score keys.
        chunks: chunks in key blocks, coarsest first, each a multiple of the next.
    """

    query_stride: Stride = 4
    chunks: tuple[Annotated[int, Field(ge=2)], ...] = (4,)
    kind: Literal["stages"] = "stages"

    def __post_init__(self) -> None:
        for chunk, smaller in pairwise((*self.chunks, 1)):
            if chunk <= smaller or chunk % smaller:
                raise ValueError(f"each chunk must be a multiple of the next, got {self.chunks}")

    def gathered_keys(self, most: int, budget: int, key_rows: int) -> int:
        """How many keys one block of queries looks at at once."""
        return (
            max(stage.entering // stage.chunk for stage in self.stages(most * key_rows, budget, key_rows)) + 1
        )

    def stages(self, tokens: int, budget: int, key_rows: int) -> list[Stage]:
        """All `tokens` candidates enter the first stage, `budget` blocks leave the last."""
        share = min(1.0, budget * key_rows / max(tokens, 1))
        chunks = (*self.chunks, 1)
        return [
            Stage(self.query_stride, chunk * key_rows, math.ceil(tokens * share ** (number / len(chunks))))
            for number, chunk in enumerate(chunks)
        ]

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
        size, most = block_size[1], candidates.most * block_size[1]
        queries = mean_queries(q, rows, block_size[0], self.query_stride)

        def score(stride: int, places: Tensor) -> Tensor:
            places = places.clamp(max=most - 1)
            blocks = candidates.blocks(rows, places // size)
            return best_logits(queries, k, blocks * size + places % size)

        ends = candidates.counts[rows] * size
        stages = self.stages(most, budget, size)
        found, valid = search_stages(score, stages, budget * size, 0, ends, most)
        return found // size, valid


class Stage(NamedTuple):
    """Chunks of `chunk` candidates; `entering` candidates' worth of them come from the stage before."""

    query_stride: int
    chunk: int
    entering: int


def search_stages(
    score: Callable[[int, Tensor], Tensor],
    stages: list[Stage],
    budget: int,
    first: int,
    ends: Tensor,
    most: int,
    limits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Judge all chunks, keep the best, cut them smaller, judge those, and so on.

    Args:
        score: (query stride, int64 [..., C] candidates) -> float32 [B, H, R, C], the best score of each with
            the queries of a row.
        stages: coarsest first; a chunk divides the one before. Every candidate enters the first.
        budget: candidates to keep at the end.
        first: the first candidate; chunks are counted from it.
        ends: int64 [R], one past the last candidate of each row.
        most: the largest of `ends`.
        limits: int64 [R]; the search for a chunk's representative ends there. None: no limit.

    Returns:
        The first candidates of the kept chunks, int64 [B, H, R, K], best first, and bool whether they are
        valid.
    """
    stop = ends[:, None]
    limit = stop if limits is None else limits[:, None]
    chunk = stages[0].chunk
    left = torch.arange(first, max(most, first + 1), chunk, device=ends.device).expand(len(ends), -1)
    scores = left
    for number, stage in enumerate(stages):
        if number:
            left = best(left, scores, math.ceil(stage.entering / chunk)).sort(dim=-1).values
            left = (left[..., None] + torch.arange(0, chunk, stage.chunk, device=ends.device)).flatten(-2)
        chunk = stage.chunk

        def score_stage(places: Tensor, stride: int = stage.query_stride) -> Tensor:
            return score(stride, places)

        _, scores = select_representative(score_stage, left, (left + chunk).minimum(stop), limit, chunk)
        left = left.expand(scores.shape)
    kept = math.ceil(budget / chunk)
    return best(left, scores, kept), best(scores, scores, kept) > -torch.inf


def select_representative(
    score: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, limit: Tensor, longest: int
) -> tuple[Tensor, Tensor]:
    """(representative, best score seen) of each range [low, high): walk to the half whose middle is higher.

    `longest` is the length of the longest range. A range that is empty or begins after `limit` is not looked
    at: its score is -inf. Ties go to the right half.
    """
    seen = None
    for _ in range(longest.bit_length()):
        active = (low < high) & (low <= limit)
        middle = (low + high) // 2
        left, right = score((low + middle) // 2), score((middle + high) // 2)
        found = torch.maximum(left, right).masked_fill(~active, -torch.inf)
        seen = found if seen is None else torch.maximum(seen, found)
        goes_left = left > right
        low, high = (
            torch.where(active & ~goes_left, middle, low),
            torch.where(active & goes_left, middle, high),
        )
    assert seen is not None
    return low, seen


def best(values: Tensor, scores: Tensor, count: int) -> Tensor:
    """The `count` values [..., C] with the highest scores, ties in order; all where there are fewer."""
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return values.expand(scores.shape).gather(-1, order)
