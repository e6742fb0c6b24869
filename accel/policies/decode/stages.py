"""Decode: key blocks for single queries after a long cache, found in stages that are reused between tokens.

Chunks of keys are judged by one real key each, the best are cut smaller and judged again, down to blocks,
which all of their keys judge (InfiniteHiP, arXiv 2502.08910). A stage's chunks serve several tokens before it
runs again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.decode.attention import grouped
from accel.kernels.layout.layout import KEY_ROWS
from accel.noun import noun
from accel.policies.decode.bounds import DecodeByBounds
from accel.policies.decode.channels import DecodeByChannels
from accel.policies.decode.memory import Found
from accel.policies.decode.search import DecodeSearch, Tokens
from accel.policies.search.probing import best_logits
from accel.policies.search.stages import best, select_representative

Keys = Annotated[int, Field(ge=16)]


@noun
class Decode(DecodeSearch):
    """How single queries against a cache find their keys: a number of them, whatever the cache holds.

    Each of the query heads that share a key head looks for its own best key in a chunk; a chunk's score is
    the share of attention of the head that wants it most, and what is found is shared. All keys judge the
    last chunks, which have 8 keys as published and 16 here, the smallest block of this project's kernels.

    Args:
        chunks: keys of a chunk in each stage, coarsest first, each a multiple of the next; the last is the
            block of the layout.
        keep: keys that each stage but the last hands on to the next; never less than the budget.
    """

    chunks: Annotated[tuple[Keys, ...], Field(min_length=1)] = (256, 32, 16)
    keep: tuple[Keys, ...] = (32768, 8192)
    refresh: tuple[Tokens, ...] = (16, 8, 1)
    kind: Literal["stages"] = "stages"

    def __post_init__(self) -> None:
        if any(larger % smaller or larger == smaller for larger, smaller in pairwise(self.chunks)):
            raise ValueError(f"each chunk must be a multiple of the next, got {self.chunks}")
        if self.chunks[-1] not in KEY_ROWS:
            raise ValueError(f"the last chunk must be one of {KEY_ROWS} keys, got {self.chunks[-1]}")
        if not len(self.chunks) == len(self.refresh) == len(self.keep) + 1:
            raise ValueError(
                "chunks and refresh have an entry for each stage and keep one less, "
                f"got {self.chunks}, {self.refresh} and {self.keep}"
            )

    @property
    def block(self) -> int:
        return self.chunks[-1]

    def search(self, q: Tensor, k: Tensor, found: Found, stage: int, room: int) -> tuple[Tensor, Tensor]:
        queries = grouped(q, k.shape[1])[:, :, :, None].float() * q.shape[3] ** -0.5  # [B, Hkv, R, 1, D]
        first, stop = (blocks.view(-1, 1, 1, 1) * self.block for blocks in (found.first, found.stop))
        if stage == 0:
            found.entering = [torch.arange(0, room, self.chunks[0], device=k.device).view(1, 1, 1, -1)]
        keep = (*(max(keys, self.budget) for keys in self.keep), self.budget)
        for number in range(stage, len(self.chunks)):
            chunk, left = self.chunks[number], found.entering[number]
            ends = (left + chunk).minimum(stop - first)

            def score(places: Tensor) -> Tensor:
                return best_logits(queries, k, first + places)

            if number + 1 < len(self.chunks):
                logits = select_representative(score, left, ends, stop - first, chunk)[1]
            else:
                logits = of_all_keys(score, left, ends, chunk)
            scores = most_wanted(logits)
            left = left.expand(scores.shape)
            if number + 1 < len(self.chunks):
                smaller = torch.arange(0, chunk, self.chunks[number + 1], device=k.device)
                left = best(left, scores, math.ceil(keep[number] / chunk)).sort(dim=-1).values
                found.entering[number + 1 :] = [(left[..., None] + smaller).flatten(-2)]
        kept = math.ceil(self.budget / self.block)
        valid = best(scores, scores, kept) > -torch.inf
        blocks = found.first.view(-1, 1, 1, 1) + best(left, scores, kept) // self.block
        return blocks[:, :, 0], valid[:, :, 0]


def of_all_keys(score: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, chunk: int) -> Tensor:
    """Float32 [B, Hkv, R, C]: the logarithm of the summed exponentials of all scores in ranges [low, high).

    Args:
        score: int64 [..., K] places -> float32 [B, Hkv, R, K].
        chunk: length of the longest range.
    """
    places = low[..., None] + torch.arange(chunk, device=low.device)
    scores = score(places.flatten(-2)).unflatten(-1, (-1, chunk))
    return scores.masked_fill(places >= high[..., None], -torch.inf).logsumexp(dim=-1)


def most_wanted(logits: Tensor) -> Tensor:
    """Float32 [B, Hkv, 1, C]: the largest share of attention that any of R rows gives to each chunk.

    Args:
        logits: float32 [B, Hkv, R, C]; -inf is no chunk, and stays so.
    """
    shares = logits.softmax(dim=-1).where(logits > -torch.inf, -torch.inf)
    return shares.amax(dim=2, keepdim=True)


AnyDecode = Annotated[Decode | DecodeByBounds | DecodeByChannels, Field(discriminator="kind")]
