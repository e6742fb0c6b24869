"""Scores of blocks: the attention mass of each block of keys, estimated from a few representatives.

All of them are one computation: pick or average representatives of the queries and of the keys, take an
exact softmax of the small problem, and add up a block's columns. Rows sum to 1, so scores compare across
rows, heads and layers as far as the representatives can be trusted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from accel.kernels.layout.blocks import per_head
from accel.kernels.planning.mass import Reduction, block_mass
from accel.kernels.planning.representatives import (
    Representatives,
    boxes,
    every,
    folded,
    means,
    sampled,
    self_similarity,
    signed_means,
    strongest_channels,
)
from accel.noun import noun

Step = Annotated[int, Field(ge=1, le=128)]
Pair = tuple[Representatives, Representatives]  # of queries and of keys


class BlockScore(ABC):
    """What the scores share.

    `steps` are the rows of queries and of keys that one representative represents; they divide a block's.
    `reduction` is what becomes of a block's entries, see `block_mass`.
    """

    reduction: ClassVar[Reduction] = "sum"
    takes_causal: ClassVar[bool] = True

    @property
    def steps(self) -> tuple[int, int]:
        return 1, 1

    @abstractmethod
    def represent(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Pair:
        """The representatives of the queries and of the keys."""

    def mass(
        self,
        q: Tensor,
        k: Tensor,
        block_size: tuple[int, int],
        causal: bool = False,
        may: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Float32 [B, H, Mb, Nb], rows summing to 1, or to 0 where a row may see nothing.

        Args:
            q: [B, H, M, D]; k: [B, Hkv, N, D], both in the order the blocks are cut from.
            block_size: (query rows, key rows).
            causal: query i is at position i + N - M and sees nothing later.
            may: bool [Mb, Nb], the only blocks that count; None where all do.
            lengths: int32 [B], each sample's keys before its padding; None if there is no padding.
        """
        if causal and not self.takes_causal:
            raise ValueError(
                f"score {type(self).__name__.lower()!r} is defined for attention that is not causal"
            )
        queries, keys = self.represent(q, k, block_size)
        sizes = self.rows_of(block_size)
        return block_mass(queries, keys.within(lengths), sizes, causal, may, self.reduction)

    def rows_of(self, block_size: tuple[int, int]) -> tuple[int, int]:
        """The rows of a block, as its representatives count them."""
        return block_size

    def must_keep(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Tensor | None:
        """Bool [B, H, Mb, Nb], blocks whose score is not to be trusted; None where all are."""
        return None


@noun
class SteppedScore(BlockScore):
    """One representative for every few rows.

    Args:
        query, key: rows of queries and of keys for each representative; at most the block's.
    """

    query: Step = 16
    key: Step = 16

    @property
    def steps(self) -> tuple[int, int]:
        return self.query, self.key


@noun
class Pooled(BlockScore):
    """Block means against block means: the cheapest, blind to what cancels inside a block.

    Args:
        self_similarity: blocks whose tokens' mean pairwise cosine is below this are not trusted: their keys
            leave the softmax and are kept for every query, their queries keep every key (arXiv 2502.18137).
            -1 trusts all.
    """

    self_similarity: Annotated[float, Field(ge=-1, le=1)] = -1.0
    kind: Literal["pooled"] = "pooled"

    def represent(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Pair:
        keys = means(k, block_size[1])
        if self.self_similarity > -1:
            keys = keys.without(self._untrusted(k, block_size[1]))
        return means(q, block_size[0]), keys

    def must_keep(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Tensor | None:
        if self.self_similarity == -1:
            return None
        rows, columns = self._untrusted(q, block_size[0]), self._untrusted(k, block_size[1])
        return rows[..., :, None] | per_head(columns, q.shape[1])[..., None, :]

    def _untrusted(self, tokens: Tensor, rows: int) -> Tensor:
        return self_similarity(tokens, rows) < self.self_similarity


@noun
class SubBlock(SteppedScore):
    """Means of a few rows against means of a few rows (arXiv 2605.23445)."""

    kind: Literal["sub_block"] = "sub_block"

    def represent(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Pair:
        return means(q, self.query), means(k, self.key)


@noun
class Strided(SteppedScore):
    """Every few-th query against every few-th key: real rows, at 1 / (query · key) of the cost of QKᵀ."""

    query: Step = 8
    key: Step = 4
    kind: Literal["strided"] = "strided"

    def represent(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Pair:
        coarser = max(self.steps)
        return every(q, self.query, coarser), every(k, self.key, coarser)


@noun
class Wanted(BlockScore):
    """A block's value to the row of queries that wants it most: real rows against every key.

    A mean over a block's rows is what most rows want; the one that asks for something said long ago is
    outvoted. Only the channels are read in which keys differ most to these queries, an idea of SparQ
    (arXiv 2312.04985) and Double Sparsity (arXiv 2408.07092). The cost is `channels` / `query` of QKᵀ.

    A row's scores do not sum to 1: a block has the share of attention of the row that wants it most, which
    compares across rows, heads and the whole layer.

    Args:
        query: every how many rows of queries one is asked.
        channels: share of the channels that is read, in (0, 1].
    """

    query: Step = 4
    channels: Annotated[float, Field(gt=0, le=1)] = 0.5
    kind: Literal["wanted"] = "wanted"
    reduction: ClassVar[Reduction] = "most"

    @property
    def steps(self) -> tuple[int, int]:
        return self.query, 1

    def represent(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Pair:
        queries, keys = every(q, self.query, self.query), every(k, 1, 1)
        count = max(round(self.channels * q.shape[3]), 1)
        return (queries, keys) if count == q.shape[3] else strongest_channels(queries, keys, count)


@noun
class Antidiagonal(BlockScore):
    """Sums along the antidiagonals of stride x stride cells, which no vertical or slash line escapes
    (arXiv 2503.16428)."""

    stride: Step = 16
    kind: Literal["antidiagonal"] = "antidiagonal"

    @property
    def steps(self) -> tuple[int, int]:
        return self.stride, self.stride

    def represent(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Pair:
        return folded(q, self.stride, backwards=True), folded(k, self.stride, backwards=False)


@noun
class Bounds(SteppedScore):
    """The most that a mean of a few queries can get from any of a few keys, by the range of every channel: a
    single strong key shows however many weak ones surround it (arXiv 2406.10774)."""

    kind: Literal["bounds"] = "bounds"

    def represent(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Pair:
        return signed_means(q, self.query), boxes(k, self.key)


@noun
class Sampled(BlockScore):
    """The strongest of a few random pairs of a block, at the same offsets in each (arXiv 2508.10774)."""

    per_block: Annotated[int, Field(ge=1, le=16)] = 16
    kind: Literal["sampled"] = "sampled"
    reduction: ClassVar[Reduction] = "strongest"
    takes_causal: ClassVar[bool] = False

    def represent(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Pair:
        return sampled(q, block_size[0], self.per_block), sampled(k, block_size[1], self.per_block)

    def rows_of(self, block_size: tuple[int, int]) -> tuple[int, int]:
        return self.per_block, self.per_block


@noun
class Exact(BlockScore):
    """The true mass, at the full cost of QKᵀ: a yardstick for the other scores, never a saving."""

    kind: Literal["exact"] = "exact"

    def represent(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Pair:
        return every(q, 1, 1), every(k, 1, 1)


Score = Annotated[
    Pooled | SubBlock | Strided | Wanted | Antidiagonal | Bounds | Sampled | Exact,
    Field(discriminator="kind"),
]
