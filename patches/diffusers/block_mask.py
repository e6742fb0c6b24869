"""Whether a block mask of FlexAttention says what a grid says of its tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from accel.patches.grid import Run, TokenGrid

PAIRS_AT_ONCE = 1 << 26

_SHOWN: WeakKeyDictionary[Any, dict[tuple[Run, ...], bool]] = WeakKeyDictionary()


def shows(mask: Any, grid: TokenGrid) -> bool:
    """Whether FlexAttention's block mask hides what the runs of a grid hide, pair by pair, and nothing else.

    Its rows may be those of the first queries, if the others see nothing. Read once for each mask, with one
    device read.
    """
    known = _SHOWN.setdefault(mask, {})
    if grid.runs not in known:
        known[grid.runs] = _shows(mask, grid)
    return known[grid.runs]


def _shows(mask: Any, grid: TokenGrid) -> bool:
    # Imports the compiler, and there is no mask without it.
    from torch.nn.attention.flex_attention import create_mask

    *shared, rows, columns = mask.shape
    if shared != [1, 1] or columns != grid.tokens or rows > columns or not grid.runs:
        return False
    device = mask.kv_num_blocks.device
    tokens = torch.tensor([run.tokens for run in grid.runs], device=device)
    tag, first, last = (
        torch.tensor([run[place] for run in grid.runs], device=device).repeat_interleave(tokens)
        for place in (1, 2, 3)
    )

    def seen(start: int, stop: int) -> Tensor:
        of_query = tag[start:stop, None]
        return (first <= of_query) & (of_query <= last)

    def shown(start: int, stop: int) -> Tensor:
        def from_start(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return mask.mask_mod(b, h, query + start, key)

        return create_mask(from_start, 1, 1, stop - start, columns, device=device)[0, 0]

    step = max(1, PAIRS_AT_ONCE // columns)
    asked, others = ((*range(low, high, step), high) for low, high in ((0, rows), (rows, columns)))
    same = all(torch.equal(seen(*cut), shown(*cut)) for cut in pairwise(asked))
    return same and not any(bool(seen(*cut).any()) for cut in pairwise(others))
