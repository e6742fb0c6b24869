"""SideBySide: each sample of a batch decodes by a search of its own: several ways in one run of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from accel import Policy
from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.policies.decode.memory import DecodeMemory
from accel.policies.decode.search import DecodeLayout, DecodeSearch
from accel.policies.permuted import Permuted


@dataclass(frozen=True)
class SideBySide:
    """What several searches find, each for one sample, as one batch of lists; used like a `DecodeSearch`.

    Args:
        searches: all of the same block size; as many as samples.
        densities: of each search, a number is added at every call in every layer.
    """

    searches: tuple[DecodeSearch, ...]
    densities: tuple[list[float], ...] = field(default_factory=tuple)

    @classmethod
    def of(cls, searches: list[DecodeSearch]) -> SideBySide:
        return cls(tuple(searches), tuple([] for _ in searches))

    @property
    def most_keys(self) -> int:
        return min(search.most_keys for search in self.searches)

    def layout(self, q: Tensor, k: Tensor, visible: Tensor | None, memory: DecodeMemory) -> BlockLayout:
        """The lists [B, Hkv, 1, S] of all samples, padded to the longest."""
        if visible is not None:
            raise ValueError("samples are whole prompts of one length, without a mask")
        memories: Any = memory.found  # forgotten with everything else that the memory holds
        if memories is None:
            memories = memory.found = [DecodeMemory() for _ in self.searches]  # type: ignore[assignment]
        layouts = []
        for sample, (search, own) in enumerate(zip(self.searches, memories, strict=True)):
            layouts.append(search.layout(q[sample, None], k[sample, None], None, own))
            self.densities[sample].append(float(layouts[-1].density))
        longest = max(layout.kv_indices.shape[3] for layout in layouts)
        indices = [
            torch.nn.functional.pad(layout.kv_indices, (0, longest - layout.kv_indices.shape[3]))
            for layout in layouts
        ]
        counts = [layout.kv_num_blocks.expand(1, k.shape[1], -1) for layout in layouts]
        one = layouts[0]
        return DecodeLayout(
            torch.cat([each.expand(1, k.shape[1], -1, -1) for each in indices]), torch.cat(counts),
            one.block_size, one.q_len, one.kv_len, one.causal,
        )  # fmt: skip


@dataclass(frozen=True)
class DecodeOnly(Policy):
    """Decodes by several searches; of prompts it keeps what `Permuted` does."""

    decode: SideBySide
    method: str = "decode_only"

    def layout(self, q: Tensor, k: Tensor, grid: Any, context: Context) -> BlockLayout:
        return Permuted().layout(q, k, grid, context)
