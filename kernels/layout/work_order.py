"""work_order: the order in which a head's rows are computed, the longest list first.

What starts last ends last: with the short lists at the end, no processor works on a long one alone. Heads
stay in their order, so that the keys of one are still in the cache for all its rows.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from accel.kernels.layout.layout import BlockLayout


def work_order(counts: Tensor) -> Tensor:
    """Int32 [B | 1, H | 1, Mb] lengths of lists -> int32 of that shape: each head's rows by falling length.

    Rows of equal length stay in their order.
    """
    if counts.is_cuda:
        from accel.kernels.layout.triton import work_order as on_gpu

        return on_gpu(counts)
    return counts.argsort(dim=-1, descending=True, stable=True).int()


def work_order_if_it_matters(layout: BlockLayout, heads: int) -> Tensor | None:
    """The order for `heads` heads of all samples; None if all rows run at once, and no order can help."""
    if heads * layout.num_q_blocks <= processors(layout.device):
        return None
    return work_order(layout.kv_num_blocks)


@lru_cache(maxsize=16)
def processors(device: torch.device) -> int:
    """How many programs a GPU certainly runs at once; 0 for a device that is not a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0
