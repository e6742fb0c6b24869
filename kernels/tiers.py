"""Tiers: the implementations of block-sparse attention, and which of them a machine gets."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

TIERS: dict[str, str] = {
    "reference": "accel.kernels.reference",
    "torch": "accel.kernels.gathered_attention",
}


@dataclass(frozen=True)
class TierChoice:
    """Which tier runs and why.

    Args:
        name: a key of `TIERS`.
        reason: one line, for people.
        unsupported: why no tier can run such a call; none where one can.
    """

    name: str
    reason: str
    unsupported: str | None = None


def choose_tier(device: torch.device | str, dtype: torch.dtype, head_dim: int) -> TierChoice:
    """The fastest tier that can run heads of `head_dim` in `dtype` on `device`."""
    device = torch.device(device)
    if reason := cannot_run("torch", device, dtype, head_dim):
        return TierChoice("torch", "gathers blocks in PyTorch, on any device", unsupported=reason)
    return TierChoice("torch", f"gathers blocks in PyTorch on the {device.type} device")


def cannot_run(name: str, device: torch.device | str, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why tier `name` cannot run such a call; none if it can."""
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"{dtype} attention"
    return None


def load_tier(name: str) -> Callable[..., Any]:
    """The tier's `block_sparse_attention`; what it needs (Triton, say) is imported now and not before."""
    return importlib.import_module(TIERS[name]).block_sparse_attention
