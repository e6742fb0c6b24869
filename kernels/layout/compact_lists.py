"""compact_lists: ascending lists of the blocks that a mask keeps, by counting instead of sorting."""

from __future__ import annotations

import torch
from torch import Tensor


def compact_lists(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Int32 [..., N] and [...]: the columns set in each row of bool [..., N], then zeros; and how many."""
    if keep.is_cuda:
        from accel.kernels.layout.triton import compact_lists as on_gpu

        with torch.cuda.device_of(keep):
            return on_gpu(keep)
    columns = keep.shape[-1]
    places = keep.cumsum(dim=-1) - 1
    # Everything not kept is written to one extra place, which is cut off again.
    places = torch.where(keep, places, columns)
    indices = torch.zeros(*keep.shape[:-1], columns + 1, dtype=torch.int32, device=keep.device)
    source = torch.arange(columns, dtype=torch.int32, device=keep.device).expand(keep.shape)
    return indices.scatter_(-1, places, source)[..., :-1], keep.sum(dim=-1, dtype=torch.int32)
