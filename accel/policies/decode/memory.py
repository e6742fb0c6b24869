"""DecodeMemory: what is remembered of one text's search for keys in one layer from one token to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Found:
    """What a search found, all in key blocks, on the device.

    Args:
        start: int64 [B | 1], the block with the first visible key.
        first, stop: int64 [B | 1], the candidates are the blocks from `first` up to `stop`.
        entering: what the stages left for those after them: of chunks, those that enter each stage, int64
            [B | 1, Hkv | 1, 1, C], in keys after `first`.
        indices, counts: int32 [B, Hkv, 1, S] and [B, Hkv, 1], as in a layout: sink, best candidates, window.
        last: int32 [B | 1, 1, 1], one past the last block on the lists.
        reach: the largest that `last` can be.
        density: of the lists when they were made; None before that.
    """

    start: Tensor
    first: Tensor
    stop: Tensor
    entering: list[Tensor] = field(default_factory=list)
    indices: Tensor = field(default_factory=lambda: torch.empty(0))
    counts: Tensor = field(default_factory=lambda: torch.empty(0))
    last: Tensor = field(default_factory=lambda: torch.empty(0))
    reach: int = 0
    density: Tensor | None = None

    def list_blocks(
        self, best: Tensor, valid: Tensor, recent: Tensor, last: Tensor, sink_room: int, recent_room: int
    ) -> None:
        """List the blocks from the start up to `first`, those of `best` that are `valid`, and the window.

        Args:
            best, valid: [B, Hkv, K].
            recent, last: int64 [B | 1], the first block of the window and one past its last.
            sink_room, recent_room: how many blocks there is room for.
        """
        recent = recent.maximum(last - recent_room)
        sink = self.start[:, None] + torch.arange(sink_room, device=best.device)
        window = recent[:, None] + torch.arange(recent_room, device=best.device)
        always = torch.cat([sink, window], dim=1)
        is_one = torch.cat([sink < self.first[:, None], window < last[:, None]], dim=1)
        shape = (*best.shape[:2], -1)
        blocks = torch.cat([best, always[:, None].expand(shape)], dim=-1)
        listed = torch.cat([valid, is_one[:, None].expand(shape)], dim=-1)
        nowhere = torch.iinfo(torch.int32).max
        self.indices = torch.where(listed, blocks, nowhere).int().sort(dim=-1).values[:, :, None]
        self.counts = listed.sum(dim=-1, dtype=torch.int32)[..., None]
        self.last = last.int().view(-1, 1, 1)
        self.density = None


@dataclass
class DecodeMemory:
    """Which stages of the search are due at a token, and what they found before.

    A call continues the last one if it is one query of as many samples and heads after one more key, or
    after as many keys in the very same memory (a static cache). Anything else starts over: another batch, a
    shorter cache, a jump, several queries at once. Whoever sees that the keys are not those of the last call
    and one more says `forget`. While a CUDA graph
    is captured every stage runs, as replays know nothing of tokens in between.

    Args:
        age: tokens since the first stage ran.
        found: empty before the first search.
    """

    age: int = 0
    found: Found | None = None
    _last: tuple[Any, ...] | None = None

    def __reduce__(self) -> tuple[type[DecodeMemory], tuple[()]]:
        # Copies and pickles are of another model, maybe in another process.
        return DecodeMemory, ()

    def forget(self) -> None:
        """Start over at the next call, and hold no memory until then."""
        self._last, self.found = None, None

    def first_due(self, refresh: tuple[int, ...], q: Tensor, k: Tensor) -> int | None:
        """The first stage to run for this token, followed by all later ones; None if no stage is due."""
        before, self._last = self._last, self._signature(q, k)
        self.age = self.age + 1 if self._goes_on(before) else 0
        if q.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            self._last, self.age = None, 0
        return next((number for number, period in enumerate(refresh) if self.age % period == 0), None)

    def _goes_on(self, before: tuple[Any, ...] | None) -> bool:
        if before is None or self._last is None or before[0] != self._last[0]:
            return False
        (length, place), (last_length, last_place) = self._last[1:], before[1:]
        return length == last_length + 1 or (length == last_length and place == last_place)

    @staticmethod
    def _signature(q: Tensor, k: Tensor) -> tuple[Any, ...] | None:
        if q.shape[2] != 1:
            return None
        return (q.shape, k.shape[1], q.device, q.dtype), k.shape[2], k.data_ptr()
