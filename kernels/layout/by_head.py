"""heads_of: one layout whose heads come from several, each head from the layout chosen for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from accel.kernels.layout.blocks import per_head
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder


def heads_of(layouts: Sequence[BlockLayout], choice: Tensor) -> BlockLayout:
    """The layout whose head h of sample b comes from `layouts[choice[b, h]]`. No host sync.

    Args:
        layouts: of the same tokens, in blocks of the same size; each shared by samples and heads or not.
        choice: int64 [B | 1, H].

    Raises:
        ValueError: if the layouts differ in anything but their lists and their orders.
    """
    first = layouts[0]
    for other in layouts[1:]:
        if _frame(other) != _frame(first):
            raise ValueError(
                f"layouts that share heads must have the same form, got {_frame(first)} and {_frame(other)}"
            )
    heads = choice.shape[1]
    longest = max(layout.kv_indices.shape[3] for layout in layouts)
    lists = [pad(layout.kv_indices, (0, longest - layout.kv_indices.shape[3])) for layout in layouts]
    return replace(
        first,
        kv_indices=_of_choice(lists, choice, heads),
        kv_num_blocks=_of_choice([layout.kv_num_blocks for layout in layouts], choice, heads),
        q_order=_order([layout.q_order for layout in layouts], choice, first.q_len),
        kv_order=_order([layout.kv_order for layout in layouts], choice, first.kv_len),
    )


def _frame(layout: BlockLayout) -> tuple:
    form = layout.causal, layout.tail, layout.window, layout.visibility
    return layout.block_size, layout.q_len, layout.kv_len, *form


def _of_choice(parts: Sequence[Tensor], choice: Tensor, heads: int) -> Tensor:
    """[B, H, ...]: of each head the part [B | 1, H | Hkv | 1, ...] that `choice` names."""
    batch = max(choice.shape[0], *(part.shape[0] for part in parts))
    stacked = torch.stack([per_head(part, heads).expand(batch, *[-1] * (part.ndim - 1)) for part in parts])
    index = choice.expand(batch, heads).reshape(1, batch, heads, *[1] * (stacked.ndim - 3))
    return stacked.gather(0, index.expand(1, *stacked.shape[1:]))[0]


def _order(orders: Sequence[TokenOrder | None], choice: Tensor, length: int) -> TokenOrder | None:
    if all(order is None for order in orders):
        return None
    in_place = torch.arange(length, device=choice.device)
    indices = [in_place if order is None else order.indices for order in orders]
    per_call = [one if one.ndim == 3 else one.expand(1, 1, length) for one in indices]
    return TokenOrder(_of_choice(per_call, choice, choice.shape[1]))
