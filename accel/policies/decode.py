"""Decode: key blocks for single queries after a long cache, found in stages that are reused between tokens.

Chunks of keys are judged by one real key each, the best are cut smaller and judged again, down to blocks
(InfiniteHiP, arXiv 2502.08910). A stage's chunks serve several tokens before it runs again.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from accel.kernels.decode_attention import grouped
from accel.kernels.layout import KEY_ROWS, BlockLayout
from accel.policies.decode_memory import DecodeMemory, Found
from accel.policies.policy import STRICT
from accel.policies.probing import best_logits
from accel.policies.stage_search import best, select_representative

Keys = Annotated[int, Field(ge=16)]
Tokens = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class Decode:
    """How single queries against a cache find their keys: a number of them, whatever the cache holds.

    Query heads that share a key head share its keys. Everything has a fixed size and stays on the device.
    The published stages end in chunks of 8 keys; the smallest block of this project's kernels has 16.

    Args:
        budget: keys to find besides the sink and the recent ones; a cache that they cover runs dense.
        chunks: keys of a chunk in each stage, coarsest first, each a multiple of the next; the last is the
            block of the layout.
        keep: keys that each stage but the last hands on to the next; never less than the budget.
        refresh: for how many tokens each stage's result serves.
    """

    budget: Keys = 2048
    chunks: Annotated[tuple[Keys, ...], Field(min_length=1)] = (256, 32, 16)
    keep: tuple[Keys, ...] = (32768, 8192)
    refresh: tuple[Tokens, ...] = (16, 8, 4)

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

    def layout(
        self, q: Tensor, k: Tensor, visible: Tensor | None, sink: int, window: int, memory: DecodeMemory
    ) -> BlockLayout:
        """The lists of each sample and key head for `decode_attention`. No host sync.

        No key between the sink and the window is ever out of both the lists' reach and the window: the window
        begins where the candidates ended when the first stage last ran, and grows until it runs again.

        Args:
            q: [B, H, M, D]; k: [B, Hkv, N, D], the queries' own keys the last that are visible.
            visible: bool [B | 1, M, N]; none where every query sees all keys up to its own.
            sink, window: tokens at the start, and before the queries, that are always kept.
            memory: what was found for the tokens before; changed.
        """
        begin, end = extent(visible, k)
        stage = memory.first_due(self.refresh, q, k)
        recent = (end - q.shape[2] - window).clamp(min=0) // self.block
        if stage == 0:
            first = -(-(begin + sink) // self.block)
            memory.found = Found(begin // self.block, first, torch.maximum(first, recent))
            room = max(k.shape[2] - sink - window, 1)
            chunks = torch.arange(0, room, self.chunks[0], device=k.device)
            memory.found.entering = [chunks.view(1, 1, 1, -1)]
        assert memory.found is not None
        if stage is not None:
            self._search(q, k, memory.found, stage, sink)
        return self._with_recent(memory.found, recent, end, q.shape[2], k.shape[2], window, visible is None)

    def _search(self, q: Tensor, k: Tensor, found: Found, stage: int, sink: int) -> None:
        """Run the stages from `stage` on; the sink's and the best blocks are left in `found`."""
        queries = grouped(q, k.shape[1])[:, :, None].float()  # [B, Hkv, 1, group · M, D]
        first, stop = (blocks.view(-1, 1, 1, 1) * self.block for blocks in (found.first, found.stop))
        keep = (*(max(keys, self.budget) for keys in self.keep), self.budget)
        for number in range(stage, len(self.chunks)):
            chunk, left = self.chunks[number], found.entering[number]
            _, worth = select_representative(
                lambda places: best_logits(queries, k, first + places),
                left, (left + chunk).minimum(stop - first), stop - first, chunk,
            )  # fmt: skip
            left = left.expand(worth.shape)
            if number + 1 < len(self.chunks):
                smaller = torch.arange(0, chunk, self.chunks[number + 1], device=k.device)
                left = best(left, worth, math.ceil(keep[number] / chunk)).sort(dim=-1).values
                found.entering[number + 1 :] = [(left[..., None] + smaller).flatten(-2)]
        kept = math.ceil(self.budget / self.block)
        valid = best(worth, worth, kept) > -torch.inf
        blocks = found.first.view(-1, 1, 1, 1) + best(left, worth, kept) // self.block
        found.list_blocks(blocks[:, :, 0], valid[:, :, 0], -(-sink // self.block) + 1)

    def _with_recent(
        self, found: Found, recent: Tensor, end: Tensor, q_len: int, kv_len: int, window: int, causal: bool
    ) -> BlockLayout:
        """The lists with the blocks of the window behind them."""
        room = math.ceil((window + q_len + max(self.refresh)) / self.block) + 2
        last = -(-end // self.block)
        start = torch.minimum(found.stop, recent).maximum(found.first).maximum(last - room)[:, None, None]
        slots = torch.arange(found.blocks.shape[2] + room, device=end.device)
        place = slots - found.count[..., None]  # [B, Hkv, S]
        listed = torch.nn.functional.pad(found.blocks, (0, room))
        indices = torch.where(place < 0, listed, start + place)
        counts = found.count + (last[:, None] - start[..., 0]).clamp(min=0)
        rows = max(16, 1 << (q_len - 1).bit_length())
        return BlockLayout(
            indices.int()[:, :, None],
            counts.int()[..., None],
            (rows, self.block),
            q_len,
            kv_len,
            causal=causal,
        )


def extent(visible: Tensor | None, k: Tensor) -> tuple[Tensor, Tensor]:
    """Int64 [B | 1] each: the first key that the last query sees, and one past the last."""
    kv_len = k.shape[2]
    if visible is None:
        return k.new_zeros(1, dtype=torch.int64), k.new_full((1,), kv_len, dtype=torch.int64)
    row = visible[:, -1].to(torch.uint8)
    return row.argmax(dim=-1), kv_len - row.flip(-1).argmax(dim=-1)
