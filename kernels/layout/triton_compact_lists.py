# mypy: disallow-untyped-defs=False
"""compact_lists in Triton: one program writes one row's list."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def compact_kernel(keep_ptr, indices_ptr, counts_ptr, N, BLOCK: tl.constexpr):
    """One row: each column that is kept goes to the place of its rank; zeros behind the last."""
    row = tl.program_id(0).to(tl.int64)
    count = tl.zeros([], tl.int32)
    for start in range(0, N, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        keep = (tl.load(keep_ptr + row * N + columns, mask=columns < N, other=0) != 0).to(tl.int32)
        places = count + tl.cumsum(keep, 0) - 1
        tl.store(indices_ptr + row * N + places, columns, mask=keep > 0)
        count += tl.sum(keep, 0)
    tl.store(counts_ptr + row, count)
    for start in range(0, N, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        zeros = tl.zeros([BLOCK], tl.int32)
        tl.store(indices_ptr + row * N + columns, zeros, mask=(columns >= count) & (columns < N))


def compact_lists(keep: Tensor) -> tuple[Tensor, Tensor]:
    """What `compact_lists.compact_lists` computes."""
    keep = keep.contiguous()
    indices = torch.empty_like(keep, dtype=torch.int32)
    counts = torch.empty(keep.shape[:-1], dtype=torch.int32, device=keep.device)
    block = min(triton.next_power_of_2(keep.shape[-1]), 2048)
    compact_kernel[(counts.numel(),)](keep, indices, counts, keep.shape[-1], BLOCK=block)
    return indices, counts
