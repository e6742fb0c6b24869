"""The tier of the Gluon kernel for Hopper: chosen where it has passed its check."""

from __future__ import annotations

import torch

from accel.kernels.attention import triton_tier
from accel.kernels.attention.tier import HALVES, Tier, on_nvidia, takes_no_visibility
from accel.kernels.layout.layout import BlockLayout


def cannot_run(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why no kernel for Hopper can run such a call, phrased to follow the tier's name; None if they can."""
    if reason := triton_tier.cannot_run(device, dtype, head_dim):
        return reason
    if on_nvidia(device) != (9, 0):
        return "needs a Hopper GPU, compute capability 9.0"
    return does_not_take(dtype, head_dim)


def does_not_take(dtype: torch.dtype, head_dim: int) -> str | None:
    """What is wrong with a call on any device."""
    if dtype not in HALVES:
        return f"does not take {dtype}"
    if head_dim % 8 or not 16 <= head_dim <= 256:
        nearest = min(max(round(head_dim / 8) * 8, 16), 256)
        return f"takes head dims from 16 to 256 divisible by 8, the nearest being {nearest}, not {head_dim}"
    return None


def cannot_take(layout: BlockLayout) -> str | None:
    rows = layout.block_size[0]
    return takes_no_visibility(layout) if rows == 128 else f"takes query blocks of 128, got {rows}"


TIER = Tier("accel.kernels.hopper.attention", cannot_run, cannot_take, needs_check=True)
