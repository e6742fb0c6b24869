"""Visibility: which queries see which keys where neither causality nor padding says it, as runs of tokens.

Every mask under which a sequence falls into a few runs of tokens that are alike is one: causality in chunks,
chunks of unequal length or resolution, references that only one frame sees, and what FlexAttention's block
masks say of such sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.blocks import per_head, positions_by_block
from accel.kernels.layout.order import TokenOrder

ALWAYS = 2**31 - 1
NEVER = ALWAYS, -ALWAYS  # first and last tag of a key that nobody sees


class Tags(NamedTuple):
    """Int32 ranges of tags, [M, A] of the queries and [N, A] of the keys, on A axes: a query sees the keys
    whose range has something in common with its own on each axis."""

    low: Tensor
    high: Tensor
    first: Tensor
    last: Tensor


class Tagged(Protocol):
    """What has tags: a `Visibility`, or `Boxes`."""

    def tags(self, device: torch.device | str) -> Tags: ...


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
        return mask_of(self.tags(device))

    @staticmethod
    def packed(tags: Tags) -> tuple[None, Tags]:
        """The one axis of `tags_by_block`, contiguous: what the Triton kernel reads."""
        low, _, first, last = (part[..., 0].contiguous() for part in tags)
        return None, Tags(low, low, first, last)

    def blocks(self, block_size: tuple[int, int]) -> int:
        """Blocks in which some query sees some key, in the order of the sequence."""
        return _count(self, block_size)


@from_sizes()
def _tags(visibility: Visibility, device: torch.device) -> Tags:
    def spread(runs: tuple[tuple[int, ...], ...], column: int) -> Tensor:
        tokens = torch.tensor([run[0] for run in runs], device="cpu")
        values = torch.tensor([run[column] for run in runs], dtype=torch.int32, device="cpu")
        return values.repeat_interleave(tokens)[:, None].to(device)

    keys, queries = visibility.keys, spread(visibility.queries, 1)
    return Tags(queries, queries, spread(keys, 1), spread(keys, 2))


def mask_of(tags: Tags) -> Tensor:
    """Bool [M, N]."""
    low, high = tags.low[:, None], tags.high[:, None]
    return ((tags.first <= high) & (low <= tags.last)).all(dim=-1)


@from_sizes()
def _count(visibility: Visibility, block_size: tuple[int, int]) -> int:
    bounds = block_bounds(visibility, block_size, torch.device("cpu"))
    return int(bounds.seen_by_some.sum())


class BlockBounds(NamedTuple):
    """The tags in each block: int64 [B | 1, H | 1, Mb, A] of queries, [B | 1, H | 1, Nb, A] of keys."""

    low: tuple[Tensor, Tensor]  # lowest, highest
    high: tuple[Tensor, Tensor]
    first: tuple[Tensor, Tensor]  # lowest, highest
    last: tuple[Tensor, Tensor]

    @property
    def seen_by_some(self) -> Tensor:
        """Bool [B | 1, H | 1, Mb, Nb]: some query sees some key of the block; may hold where none does, if
        a block has runs of both that are far apart."""
        return self._within(self.first[0], self.high[1], self.low[0], self.last[1])

    @property
    def seen_by_all(self) -> Tensor:
        """Bool, the same: every query sees every key of the block, and the block is whole."""
        return self._within(self.first[1], self.high[0], self.low[1], self.last[0])

    def _within(self, first: Tensor, after: Tensor, before: Tensor, last: Tensor) -> Tensor:
        """Whether first <= after and before <= last, of each block of queries and each of keys."""
        heads = max(first.shape[1], after.shape[1])
        first, last = (per_head(key, heads)[:, :, None] for key in (first, last))
        after, before = (per_head(query, heads)[:, :, :, None] for query in (after, before))
        return ((first <= after) & (before <= last)).all(dim=-1)


def block_bounds(
    visibility: Tagged,
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
def _bounds_in_sequence(visibility: Tagged, block_size: tuple[int, int], device: torch.device) -> BlockBounds:
    return _bounds(visibility, block_size, device, None, None, None)


def _bounds(
    visibility: Tagged,
    block_size: tuple[int, int],
    device: torch.device,
    q_order: TokenOrder | None,
    kv_order: TokenOrder | None,
    kv_lengths: Tensor | None,
) -> BlockBounds:
    tags = visibility.tags(device)
    queries = positions_by_block(q_order, len(tags.low), block_size[0], device, -1)
    keys = positions_by_block(kv_order, len(tags.first), block_size[1], device, -1)
    absent, padding = queries < 0, keys < 0
    if kv_lengths is not None:
        padding = padding | (keys >= kv_lengths[:, None, None, None])

    def ends(tags: Tensor, places: Tensor, none: Tensor, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
        found = tags[places.clamp(min=0)].long()
        least, most = (found.masked_fill(none[..., None], value) for value in (lowest, highest))
        return least.amin(dim=-2), most.amax(dim=-2)

    return BlockBounds(
        ends(tags.low, queries, absent, ALWAYS, -ALWAYS),
        ends(tags.high, queries, absent, ALWAYS, -ALWAYS),
        ends(tags.first, keys, padding, NEVER[0], NEVER[0]),
        ends(tags.last, keys, padding, NEVER[1], NEVER[1]),
    )
