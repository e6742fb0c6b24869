"""DecodeByBlocks: what searches that rank every block of a cache have in common."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from accel.policies.decode.memory import Found
from accel.policies.decode.search import Always, DecodeSearch, Keys, Tokens
from accel.policies.policy import STRICT


@dataclass(frozen=True, config=STRICT)
class DecodeByBlocks(DecodeSearch):
    """Two stages: what is remembered of all keys, and the rank of every block by it.

    Args:
        budget: keys to find in addition to the sink and the window; a cache that they cover runs dense.
        sink, window: tokens at the start, and before the queries, that are always kept.
        keys: keys of a block.
        refresh: for how many tokens what is remembered serves, and for how many the blocks that were found.
    """

    budget: Keys = 2048
    sink: Always = 256
    window: Always = 1024
    keys: Literal[16, 32, 64, 128] = 16
    refresh: tuple[Tokens, Tokens] = (16, 1)

    @property
    def block(self) -> int:
        return self.keys

    def best_blocks(self, worth: Tensor, found: Found) -> tuple[Tensor, Tensor]:
        """The candidates that are worth most, of the worth [B, Hkv, Nb] of blocks; as `search` does."""
        places = torch.arange(worth.shape[2], device=worth.device)
        outside = (places < found.first[:, None]) | (places >= found.stop[:, None])
        kept = min(math.ceil(self.budget / self.block), worth.shape[2])
        top = worth.masked_fill(outside[:, None], -torch.inf).topk(kept, dim=-1)
        return top.indices, top.values > -torch.inf
