"""Dense: every block, as the baseline that other methods are measured against."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.layout import BlockLayout
from accel.noun import noun
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.policy import BlockSize, Policy


@noun
class Dense(Policy):
    """Keeps every block: sparse attention's answer and cost at density 1."""

    static: ClassVar[bool] = True
    method: Literal["dense"] = "dense"
    block_size: BlockSize = (128, 128)

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        """The full layout, shared by all samples and heads, causal in a sequence; see `Policy.layout`."""
        return _full(q.shape[2], k.shape[2], self.block_size, q.device, grid is None)


@from_sizes()
def _full(
    q_len: int, kv_len: int, block_size: tuple[int, int], device: torch.device, causal: bool
) -> BlockLayout:
    return BlockLayout.full(q_len, kv_len, block_size, device, causal=causal)
