"""HeadShare: the heads of a layer that this process holds, where others hold the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadShare:
    """A run of one layer's heads, the same for its queries and its keys. All shares are of the size of the
    first, but the last ones take what is left.

    Args:
        total: heads of the layer.
        ranks: processes that share them.
        rank: which of them this is.
        group: their process group.

    Raises:
        ValueError: if the shares would leave a process without a head.
    """

    total: int
    ranks: int
    rank: int
    group: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.ranks:
            raise ValueError(f"rank must be one of {self.ranks}, got {self.rank}")
        if self.total <= self.largest * (self.ranks - 1):
            raise ValueError(f"{self.total} heads leave one of {self.ranks} processes without any")

    @property
    def largest(self) -> int:
        """Heads of the largest share."""
        return -(-self.total // self.ranks)

    @property
    def own(self) -> slice:
        """This process's heads."""
        return slice(self.rank * self.largest, min((self.rank + 1) * self.largest, self.total))

    def gather(self, mine: Tensor) -> Tensor:
        """All heads' [B, total, ...], the same in every process, from each one's own [B, h, ...].

        Every process of the group must call it.
        """
        missing = self.largest - mine.shape[1]
        padding = mine.new_zeros(mine.shape[0], missing, *mine.shape[2:])
        padded = torch.cat([mine, padding], dim=1) if missing else mine.contiguous()
        parts = [torch.empty_like(padded) for _ in range(self.ranks)]
        torch.distributed.all_gather(parts, padded, group=self.group)
        return torch.cat(parts, dim=1)[:, : self.total]
