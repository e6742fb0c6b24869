"""DecodeSearch: what every way of finding keys for single queries after a long cache has in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout.layout import BlockLayout
from accel.noun import noun
from accel.policies.decode.memory import DecodeMemory, Found

Tokens = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class DecodeLayout(BlockLayout):
    """Lists that serve several tokens, and with them their density when they were made."""

    made_at: Tensor | None = None

    @property
    def density(self) -> Tensor:
        return super().density if self.made_at is None else self.made_at


@noun
class DecodeSearch(ABC):
    """Lists the sink, a number of keys that are searched for, and the window. Everything has a fixed size.

    Args:
        budget: keys to find in addition to the sink and the window; a cache that they cover runs dense.
        sink, window: tokens at the start, and before the queries, that are always kept.
        refresh: for how many tokens each stage's result serves.
    """

    budget: Annotated[int, Field(ge=16)] = 2048
    sink: Annotated[int, Field(ge=0)] = 256
    window: Annotated[int, Field(ge=0)] = 1024
    refresh: tuple[Tokens, ...] = (1,)

    @property
    @abstractmethod
    def block(self) -> int:
        """Keys of a block of the layout."""

    @abstractmethod
    def search(self, q: Tensor, k: Tensor, found: Found, stage: int, room: int) -> tuple[Tensor, Tensor]:
        """Run the stages from `stage` on.

        Args:
            found: the candidates, and what the stages before left; changed.
            room: keys from the first candidate on, at most.

        Returns:
            The best blocks, int64 [B, Hkv, K], and whether each is one.
        """

    @property
    def most_keys(self) -> int:
        """Keys that a query certainly sees; a cache of at most that many is better read whole."""
        return self.budget + self.sink + self.window

    def layout(self, q: Tensor, k: Tensor, visible: Tensor | None, memory: DecodeMemory) -> BlockLayout:
        """The lists of each sample and key head for `decode_attention`. No host sync.

        No key between the sink and the window is ever out of both the lists' reach and the window: the window
        begins where the candidates ended when the first stage last ran, and grows until it runs again. Lists
        reach ahead, to the keys of the tokens that they serve: between two stages nothing is computed.

        Args:
            q: [B, H, M, D]; k: [B, Hkv, N, D], the queries' own keys the last that are visible.
            visible: bool [B | 1, M, N]; None where every query sees all keys up to its own.
            memory: what was found for the tokens before; changed.
        """
        stage = memory.first_due(self.refresh, q, k)
        if stage is not None:
            memory.found = self._find(q, k, visible, memory.found if stage else None, stage)
        found, q_len, kv_len = memory.found, q.shape[2], k.shape[2]
        assert found is not None
        counts = found.counts
        if found.reach > (blocks := -(-kv_len // self.block)):
            counts = counts - (found.last - blocks).clamp(min=0)
        rows = max(16, 1 << (q_len - 1).bit_length())
        lists = (found.indices, counts, (rows, self.block), q_len, kv_len, visible is None)
        if found.density is None:
            found.density = BlockLayout(*lists).density
        return DecodeLayout(*lists, made_at=found.density)

    def _find(self, q: Tensor, k: Tensor, visible: Tensor | None, found: Found | None, stage: int) -> Found:
        """Run the stages that are due and list what they found, for this token and those until the next."""
        # Until a stage runs again, a new text in an old static cache has only the sink to look at.
        sink = max(self.sink, min(self.refresh))
        begin, end = extent(visible, k)
        recent = (end - q.shape[2] - self.window).clamp(min=0) // self.block
        if found is None:
            first = -(-(begin + sink) // self.block)
            found = Found(begin // self.block, first, torch.maximum(first, recent))
        best, valid = self.search(q, k, found, stage, max(k.shape[2] - sink - self.window, 1))
        ahead = min(self.refresh) - 1
        found.reach = -(-(k.shape[2] + ahead) // self.block)
        found.list_blocks(
            best,
            valid,
            torch.minimum(found.stop, recent).maximum(found.first),
            -(-(end + ahead) // self.block),
            -(-sink // self.block) + 1,
            math.ceil((self.window + q.shape[2] + max(self.refresh) + ahead) / self.block) + 2,
        )
        return found


def extent(visible: Tensor | None, k: Tensor) -> tuple[Tensor, Tensor]:
    """Int64 [B | 1] each: the first key that the last query sees, and one past the last."""
    kv_len = k.shape[2]
    if visible is None:
        return k.new_zeros(1, dtype=torch.int64), k.new_full((1,), kv_len, dtype=torch.int64)
    row = visible[:, -1].to(torch.uint8)
    return row.argmax(dim=-1), kv_len - row.flip(-1).argmax(dim=-1)
