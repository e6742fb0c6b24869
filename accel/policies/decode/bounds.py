"""DecodeByBounds: key blocks for single queries after a cache, by the most that any of their keys can score.

A block's keys lie in a box, from the smallest to the largest of each of their numbers; no key in it can score
more with a query than the box's best corner (Quest, arXiv 2406.10774). A single outstanding key is not lost.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from accel.kernels.decode.attention import grouped
from accel.noun import noun
from accel.policies.decode.blocks import DecodeByBlocks
from accel.policies.decode.memory import Found


@noun
class DecodeByBounds(DecodeByBlocks):
    """Every block is ranked by two rows instead of its keys. Query heads that share a key head share keys.

    The first stage makes the boxes, which reads all keys once; the second ranks them, which reads as much as
    two keys a block.
    """

    kind: Literal["bounds"] = "bounds"

    def search(self, q: Tensor, k: Tensor, found: Found, stage: int, room: int) -> tuple[Tensor, Tensor]:
        if stage == 0:
            found.entering = list(boxes(k, self.block))
        return self.best_blocks(best_corner(grouped(q, k.shape[1]), *found.entering), found)


def boxes(k: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """[B, Hkv, Nb, D] each: the smallest and largest of each number in `columns` keys of k [B, Hkv, N, D]."""
    whole = k.shape[2] // columns * columns
    low, high = k[:, :, :whole].unflatten(2, (-1, columns)).aminmax(dim=3)
    if whole == k.shape[2]:
        return low, high
    rest = k[:, :, whole:].aminmax(dim=2, keepdim=True)
    return torch.cat([low, rest.min], dim=2), torch.cat([high, rest.max], dim=2)


def best_corner(q: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Float32 [B, Hkv, Nb]: the most that any query [B, Hkv, R, D] can score with any key in each box."""
    positive, negative = q.clamp(min=0), q.clamp(max=0)
    bound = positive @ high.transpose(-1, -2) + negative @ low.transpose(-1, -2)
    return bound.float().amax(dim=2)
