"""Attention whose queries are the last or the first tokens of a sequence, as that of all its tokens.

Methods on a grid expect as many queries as keys. The slot is given queries for the other tokens too, zeros
whose output is dropped, for the price of a few rows of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from accel.patches.diffusers.routed_processor import DispatchingProcessor
from accel.patches.site import AttentionFn


@dataclass(frozen=True)
class FilledQueries:
    """An attention function of some queries of a sequence, called with queries for all of it.

    Args:
        fn: is given as many queries as keys, and a mask of keys [B, N] as [B, 1, 1, N].
        behind: the queries are the sequence's first; else its last.
    """

    fn: AttentionFn
    behind: bool = False

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dense: Callable[[], Tensor]
    ) -> Tensor:
        missing = k.shape[1] - q.shape[1]
        before, after = (0, missing) if self.behind else (missing, 0)
        around = (0, 0, 0, 0, before, after)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            mask = mask[:, None, None]
        out = self.fn(pad(q, around), k, v, mask, lambda: pad(dense(), around))
        return out[:, before : before + q.shape[1]]


class FillingProcessor(DispatchingProcessor):
    """Mixin in front of a stock processor in whose long attention the last tokens alone have queries."""

    behind = False

    def __init__(self, original: Any, fn: AttentionFn) -> None:
        super().__init__(original, FilledQueries(fn, self.behind))


class FillingBehind(FillingProcessor):
    """The same where the first tokens alone have queries."""

    behind = True
