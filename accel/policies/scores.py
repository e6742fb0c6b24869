"""Scores of blocks: the attention mass of each block of keys, estimated from a few representatives.

All of them are one computation: pick or average representatives of the queries and of the keys, take an
exact softmax of the small problem, and add up a block's columns. Rows sum to 1, so scores compare across
rows, heads and layers as far as the representatives can be trusted.

q is [B, H, M, D] and k [B, Hkv, N, D], both in the order the blocks are cut from; the result is float32
[B, H, Mb, Nb]. With `causal`, query i stands at position i + N - M and blocks of the future get 0.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from accel.kernels.blocks import per_head
from accel.policies.block_mass import block_mass
from accel.policies.policy import STRICT
from accel.policies.representatives import every, folded, means, sampled, self_similarity

Step = Annotated[int, Field(ge=1, le=128)]


class BlockScore:
    """What the scores share.

    `steps` are the rows of queries and of keys that one representative stands for; they divide a block's.
    """

    @property
    def steps(self) -> tuple[int, int]:
        return 1, 1

    def must_keep(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Tensor | None:
        """Bool [B, H, Mb, Nb], blocks whose score is not to be trusted; none where all are."""
        return None


@dataclass(frozen=True, config=STRICT)
class Pooled(BlockScore):
    """Block means against block means: the cheapest, blind to what cancels inside a block.

    Args:
        self_similarity: blocks whose tokens' mean pairwise cosine is below this are not trusted: their keys
            leave the softmax and are kept for every query, their queries keep every key (arXiv 2502.18137).
            -1 trusts all.
    """

    self_similarity: Annotated[float, Field(ge=-1, le=1)] = -1.0
    kind: Literal["pooled"] = "pooled"

    def mass(self, q: Tensor, k: Tensor, block_size: tuple[int, int], causal: bool = False) -> Tensor:
        keys = means(k, block_size[1])
        if self.self_similarity > -1:
            keys = keys.without(self._untrusted(k, block_size[1]))
        return block_mass(means(q, block_size[0]), keys, block_size, causal)

    def must_keep(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Tensor | None:
        if self.self_similarity == -1:
            return None
        rows, columns = self._untrusted(q, block_size[0]), self._untrusted(k, block_size[1])
        return rows[..., :, None] | per_head(columns, q.shape[1])[..., None, :]

    def _untrusted(self, tokens: Tensor, rows: int) -> Tensor:
        return self_similarity(tokens, rows) < self.self_similarity


@dataclass(frozen=True, config=STRICT)
class SubBlock(BlockScore):
    """Means of a few rows against means of a few rows (arXiv 2605.23445).

    Args:
        query, key: rows of a mean; at most the block's.
    """

    query: Step = 16
    key: Step = 16
    kind: Literal["sub_block"] = "sub_block"

    @property
    def steps(self) -> tuple[int, int]:
        return self.query, self.key

    def mass(self, q: Tensor, k: Tensor, block_size: tuple[int, int], causal: bool = False) -> Tensor:
        return block_mass(means(q, self.query), means(k, self.key), block_size, causal)


@dataclass(frozen=True, config=STRICT)
class Strided(BlockScore):
    """Every few-th query against every few-th key: real rows, at 1 / (query · key) of the cost of QKᵀ."""

    query: Step = 8
    key: Step = 4
    kind: Literal["strided"] = "strided"

    @property
    def steps(self) -> tuple[int, int]:
        return self.query, self.key

    def mass(self, q: Tensor, k: Tensor, block_size: tuple[int, int], causal: bool = False) -> Tensor:
        return block_mass(every(q, self.query), every(k, self.key), block_size, causal)


@dataclass(frozen=True, config=STRICT)
class Antidiagonal(BlockScore):
    """Sums along the antidiagonals of stride x stride cells, which no vertical or slash line escapes
    (arXiv 2503.16428)."""

    stride: Step = 16
    kind: Literal["antidiagonal"] = "antidiagonal"

    @property
    def steps(self) -> tuple[int, int]:
        return self.stride, self.stride

    def mass(self, q: Tensor, k: Tensor, block_size: tuple[int, int], causal: bool = False) -> Tensor:
        return block_mass(folded(q, self.stride, True), folded(k, self.stride, False), block_size, causal)


@dataclass(frozen=True, config=STRICT)
class Sampled(BlockScore):
    """The strongest of a few random pairs of a block, at the same offsets in each (arXiv 2508.10774)."""

    per_block: Annotated[int, Field(ge=1, le=16)] = 16
    kind: Literal["sampled"] = "sampled"

    def mass(self, q: Tensor, k: Tensor, block_size: tuple[int, int], causal: bool = False) -> Tensor:
        if causal:
            raise ValueError("score 'sampled' is defined for attention that is not causal")
        queries, keys = (sampled(x, rows, self.per_block) for x, rows in zip((q, k), block_size, strict=True))
        return block_mass(queries, keys, (self.per_block, self.per_block), strongest=True)


Score = Annotated[Pooled | SubBlock | Strided | Antidiagonal | Sampled, Field(discriminator="kind")]
