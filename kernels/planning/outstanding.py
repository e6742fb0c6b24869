"""keep_outstanding: the blocks of a row whose mass stands out, by the mean and deviation of logarithms."""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels.planning.budgets import LEAST_VARIANCE
from accel.kernels.planning.heaviest import keep_heaviest


def keep_outstanding(mass: Tensor, must: Tensor, may: Tensor | None, beta: float) -> Tensor:
    """Bool [B, H, Mb, Nb]: blocks whose log mass is `beta` standard deviations above the mean of their row.

    On a GPU one kernel reads the masses and writes the flags, unless rows are too long for a program.

    Args:
        mass: float32 [B, H, Mb, Nb], not negative. NaN counts as 0.
        must: bool, broadcasting to `mass`: always kept, as is the heaviest block of every row.
        may: bool, broadcasting to `mass`: no others are ever kept, or counted; None if all may.
    """
    if mass.is_cuda:
        from accel.kernels.planning.heaviest_triton import LONGEST_ROW
        from accel.kernels.planning.heaviest_triton import keep_outstanding as on_gpu

        if mass.shape[3] <= LONGEST_ROW:
            # Triton launches on the current device, which need not be the tensors'.
            with torch.cuda.device_of(mass):
                return on_gpu(mass, must, may, beta)
    logs = mass.nan_to_num(nan=0.0).clamp(min=torch.finfo(mass.dtype).tiny).log()
    counts = torch.ones_like(logs) if may is None else may.expand(logs.shape).to(logs.dtype)
    number = counts.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = (logs * counts).sum(dim=-1, keepdim=True) / number
    variance = ((logs - mean).square() * counts).sum(dim=-1, keepdim=True) / number
    outstanding = logs > mean + beta * (variance + LEAST_VARIANCE).sqrt()
    outstanding = outstanding if may is None else outstanding & may
    return keep_heaviest(mass, must, may, "row", 0.0) | outstanding
