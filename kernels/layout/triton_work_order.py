# mypy: disallow-untyped-defs=False
"""work_order in Triton: each row's place is the number of rows that go before it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def work_order_kernel(counts_ptr, order_ptr, rows, BLOCK: tl.constexpr):
    """Places of BLOCK rows of one head, against all of its rows."""
    counts_ptr += tl.program_id(1).to(tl.int64) * rows
    order_ptr += tl.program_id(1).to(tl.int64) * rows
    ours = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(counts_ptr + ours, mask=ours < rows, other=0)
    place = tl.zeros([BLOCK], tl.int32)
    for start in range(0, rows, BLOCK):
        others = start + tl.arange(0, BLOCK)
        other = tl.load(counts_ptr + others, mask=others < rows, other=-1)
        longer = other[None, :] > count[:, None]
        earlier = (other[None, :] == count[:, None]) & (others[None, :] < ours[:, None])
        place += tl.sum((longer | earlier).to(tl.int32), 1)
    tl.store(order_ptr + place, ours, mask=ours < rows)


def work_order(counts: Tensor) -> Tensor:
    """What `work_order.work_order` computes, without waiting for the device."""
    counts = counts.contiguous()
    order = torch.empty_like(counts)
    rows = counts.shape[2]
    work_order_kernel[(triton.cdiv(rows, 64), counts.shape[0] * counts.shape[1])](
        counts, order, rows, BLOCK=64
    )
    return order
