"""The tier of the FP8 kernel: fourteen times the error of bf16, so only where FP8 is asked for."""

from __future__ import annotations

import torch

from accel.kernels.attention.tier import Tier
from accel.kernels.hopper import tier as hopper
from accel.kernels.layout.layout import BlockLayout

HEAD_DIMS = (64, 128)


def cannot_run(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    return hopper.cannot_run(device, dtype, head_dim) or does_not_take(dtype, head_dim)


def does_not_take(dtype: torch.dtype, head_dim: int) -> str | None:
    """What is wrong with a call on any device."""
    if head_dim not in HEAD_DIMS:
        return f"takes head dims 64 and 128, not {head_dim}"
    return hopper.does_not_take(dtype, head_dim)


def cannot_take(layout: BlockLayout) -> str | None:
    if reason := hopper.cannot_take(layout):
        return reason
    if layout.block_size[1] == 16:
        return "takes key blocks of 32, 64 and 128, got 16"
    if layout.window is not None:
        return "does not take a window"
    if (layout.q_order or layout.kv_order) and (layout.causal or layout.kv_lengths is not None):
        return "does not join an order with causality or padding"
    return None


TIER = Tier(
    "accel.kernels.fp8.attention",
    cannot_run,
    cannot_take,
    needs_check=True,
    precision="fp8",
    error=0.08,
)
