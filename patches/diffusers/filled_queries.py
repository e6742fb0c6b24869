"""Attention whose queries are the last tokens of the sequence, as attention of the sequence to itself.

Methods on a grid expect as many queries as keys. The slot is given queries for the tokens before too, zeros
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
    """An attention function whose queries are the last of the sequence, called with queries for all of it.

    Args:
        fn: is given as many queries as keys.
    """

    fn: AttentionFn

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dense: Callable[[], Tensor]
    ) -> Tensor:
        missing = (0, 0, 0, 0, k.shape[1] - q.shape[1], 0)
        return self.fn(pad(q, missing), k, v, mask, lambda: pad(dense(), missing))[:, missing[4] :]


class FillingProcessor(DispatchingProcessor):
    """Mixin in front of a stock processor whose long attention has the last tokens alone for queries."""

    def __init__(self, original: Any, fn: AttentionFn) -> None:
        super().__init__(original, FilledQueries(fn))
