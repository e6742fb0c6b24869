"""DecodeSearch: what every way of finding keys for single queries after a long cache has in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout import BlockLayout
from accel.policies.decode_memory import DecodeMemory, Found

Keys = Annotated[int, Field(ge=16)]
Tokens = Annotated[int, Field(ge=1)]


class DecodeSearch(ABC):
    """Lists the sink, a number of keys that are searched for, and the window. Everything has a fixed size.

    Attributes:
        budget: keys to find besides the sink and the recent ones; a cache that they cover runs dense.
        refresh: for how many tokens each stage's result serves.
        block: keys of a block of the layout.
    """

    budget: int
    refresh: tuple[int, ...]

    @property
    @abstractmethod
    def block(self) -> int: ...

    @abstractmethod
    def search(self, q: Tensor, k: Tensor, found: Found, stage: int, room: int) -> tuple[Tensor, Tensor]:
        """Run the stages from `stage` on.

        Args:
            found: the candidates, and what the stages before left; changed.
            room: keys from the first candidate on, at most.

        Returns:
            The best blocks, int64 [B, Hkv, K], and whether each is one.
        """

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
        found = memory.found
        assert found is not None
        if stage is not None:
            room = max(k.shape[2] - sink - window, 1)
            found.list_blocks(*self.search(q, k, found, stage, room), -(-sink // self.block) + 1)
        return self._with_recent(found, recent, end, q.shape[2], k.shape[2], window, visible is None)

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
