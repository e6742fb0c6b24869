"""The tier of the int8 kernel: six times the error of bf16, so only where int8 is asked for.

Made for cards whose tensor cores have four times the rate for int8, and twice for sums in half precision:
compute capability 8.6, 8.9 and 12.0. It computes the same on 8.0, 9.0 and 10.0, where it saves less.
"""

from __future__ import annotations

import torch

from accel.kernels.attention import triton_tier
from accel.kernels.attention.tier import HALVES, Tier, on_nvidia, takes_no_visibility

HEAD_DIMS = (64, 128)


def cannot_run(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    if reason := triton_tier.cannot_run(device, dtype, head_dim):
        return reason
    if device.type == "cuda" and on_nvidia(device) is None:
        return "needs an NVIDIA GPU"
    return does_not_take(dtype, head_dim)


def does_not_take(dtype: torch.dtype, head_dim: int) -> str | None:
    """What is wrong with a call on any device."""
    if dtype not in HALVES:
        return f"does not take {dtype}"
    return None if head_dim in HEAD_DIMS else f"takes head dims 64 and 128, not {head_dim}"


TIER = Tier(
    "accel.kernels.int8.attention",
    cannot_run,
    takes_no_visibility,
    needs_check=True,
    precision="int8",
    error=0.015,
    configurations="accel.kernels.int8.configurations",
)
