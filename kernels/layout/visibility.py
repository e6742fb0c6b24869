"""Visibility: which queries see which keys where neither causality nor padding says it, as runs of tokens.

Every mask under which a sequence falls into a few runs of tokens that are alike is one: causality in chunks,
chunks of unequal length or resolution, references that only one frame sees, and what FlexAttention's block
masks say of such sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.blocks import per_head, positions_by_block
from accel.kernels.layout.order import TokenOrder

ALWAYS = 2**31 - 1
NEVER = ALWAYS, -ALWAYS  # first and last tag of a key that nobody sees


class Tags(NamedTuple):
    """Int32 tensors: of the queries [M], and the first and the last that sees each key [N]."""

    queries: Tensor
    first: Tensor
    last: Tensor


@dataclass(frozen=True)
class Visibility:
    """Query i sees key j iff first(j) <= tag(i) <= last(j).

    Args:
        queries: tokens and tag of each run of queries, in the order of the sequence.
        keys: tokens, first and last tag of each run of keys.
    """

    queries: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, int, int], ...]

    @classmethod
    def chunks(cls, q_len: int, kv_len: int, chunk: int) -> Visibility:
        """Causality in chunks of so many tokens: a query sees its own chunk and those before.

        The last query is at the place of the last key.
        """
        keys = ((min(chunk, kv_len - start), start // chunk, ALWAYS) for start in range(0, kv_len, chunk))
        places = torch.arange(kv_len - q_len, kv_len, device="cpu") // chunk
        tags, counts = places.unique_consecutive(return_counts=True)
        return cls(tuple(zip(counts.tolist(), tags.tolist(), strict=True)), tuple(keys))

    @property
    def q_len(self) -> int:
        return sum(tokens for tokens, _ in self.queries)

    @property
    def kv_len(self) -> int:
        return sum(tokens for tokens, *_ in self.keys)

    def tags(self, device: torch.device | str) -> Tags:
        return _tags(self, torch.device(device))

    def mask(self, device: torch.device | str) -> Tensor:
        """Bool [M, N]."""
        tags = self.tags(device)
        of_query = tags.queries[:, None]
        return (tags.first <= of_query) & (of_query <= tags.last)

    def blocks(self, block_size: tuple[int, int]) -> int:
        """Blocks in which some query sees some key, in the order of the sequence."""
        return _count(self, block_size)


@from_sizes()
def _tags(visibility: Visibility, device: torch.device) -> Tags:
    def spread(runs: tuple[tuple[int, ...], ...], column: int) -> Tensor:
        tokens = torch.tensor([run[0] for run in runs], device="cpu")
        values = torch.tensor([run[column] for run in runs], dtype=torch.int32, device="cpu")
        return values.repeat_interleave(tokens).to(device)

    keys = visibility.keys
    return Tags(spread(visibility.queries, 1), spread(keys, 1), spread(keys, 2))


@from_sizes()
def _count(visibility: Visibility, block_size: tuple[int, int]) -> int:
    bounds = block_bounds(visibility, block_size, torch.device("cpu"))
    return int(bounds.seen_by_some.sum())


class BlockBounds(NamedTuple):
    """The tags in each block: int32 [B | 1, H | 1, Mb] of queries, [B | 1, H | 1, Nb] of keys."""

    low: Tensor
    high: Tensor
    first: tuple[Tensor, Tensor]  # lowest, highest
    last: tuple[Tensor, Tensor]

    @property
    def seen_by_some(self) -> Tensor:
        """Bool [B | 1, H | 1, Mb, Nb]: some query sees some key of the block; may hold where none does, if
        a block has runs of both that are far apart."""
        return self._within(self.first[0], self.high, self.low, self.last[1])

    @property
    def seen_by_all(self) -> Tensor:
        """Bool, the same: every query sees every key of the block, and the block is whole."""
        return self._within(self.first[1], self.low, self.high, self.last[0])

    def _within(self, first: Tensor, after: Tensor, before: Tensor, last: Tensor) -> Tensor:
        """Whether first <= after and before <= last, of each block of queries and each of keys."""
        heads = max(first.shape[1], after.shape[1])
        first, last = (per_head(key, heads)[:, :, None] for key in (first, last))
        after, before = (per_head(query, heads)[..., None] for query in (after, before))
        return (first <= after) & (before <= last)


def block_bounds(
    visibility: Visibility,
    block_size: tuple[int, int],
    device: torch.device,
    q_order: TokenOrder | None = None,
    kv_order: TokenOrder | None = None,
    kv_lengths: Tensor | None = None,
) -> BlockBounds:
    """The bounds of blocks cut from an order of tokens. No host sync.

    Args:
        kv_lengths: int32 [B]; keys at positions from there on are padding, which nobody sees.
    """
    if q_order is None and kv_order is None and kv_lengths is None:
        # A plan asks twice: before it chooses blocks, and for what of them is listed.
        return _bounds_in_sequence(visibility, block_size, device)
    return _bounds(visibility, block_size, device, q_order, kv_order, kv_lengths)


@from_sizes()
def _bounds_in_sequence(
    visibility: Visibility, block_size: tuple[int, int], device: torch.device
) -> BlockBounds:
    return _bounds(visibility, block_size, device, None, None, None)


def _bounds(
    visibility: Visibility,
    block_size: tuple[int, int],
    device: torch.device,
    q_order: TokenOrder | None,
    kv_order: TokenOrder | None,
    kv_lengths: Tensor | None,
) -> BlockBounds:
    tags = visibility.tags(device)
    queries = positions_by_block(q_order, len(tags.queries), block_size[0], device, -1)
    keys = positions_by_block(kv_order, len(tags.first), block_size[1], device, -1)
    absent = keys < 0
    if kv_lengths is not None:
        absent = absent | (keys >= kv_lengths[:, None, None, None])
    of_query = tags.queries[queries.clamp(min=0)].long()
    first = tags.first[keys.clamp(min=0)].long().masked_fill(absent, NEVER[0])
    last = tags.last[keys.clamp(min=0)].long().masked_fill(absent, NEVER[1])
    return BlockBounds(
        of_query.masked_fill(queries < 0, ALWAYS).amin(dim=-1),
        of_query.masked_fill(queries < 0, -ALWAYS).amax(dim=-1),
        (first.amin(dim=-1), first.amax(dim=-1)),
        (last.amin(dim=-1), last.amax(dim=-1)),
    )
