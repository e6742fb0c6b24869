"""DecodeByBlocks: what searches that rank every block of a cache have in common."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from accel.noun import noun
from accel.policies.decode.memory import Found
from accel.policies.decode.search import DecodeSearch, Tokens


@noun
class DecodeByBlocks(DecodeSearch):
    """Two stages: what is remembered of all keys, and the rank of every block by it.

    Args:
        keys: keys of a block.
        refresh: for how many tokens what is remembered serves, and for how many the blocks that were found.
    """

    keys: Literal[16, 32, 64, 128] = 16
    refresh: tuple[Tokens, Tokens] = (16, 1)

    @property
    def block(self) -> int:
        return self.keys

    def best_blocks(self, scores: Tensor, found: Found) -> tuple[Tensor, Tensor]:
        """The candidates with the highest `scores` [B, Hkv, Nb] of blocks, as `search` returns them."""
        places = torch.arange(scores.shape[2], device=scores.device)
        outside = (places < found.first[:, None]) | (places >= found.stop[:, None])
        kept = min(math.ceil(self.budget / self.block), scores.shape[2])
        top = scores.masked_fill(outside[:, None], -torch.inf).topk(kept, dim=-1)
        return top.indices, top.values > -torch.inf
