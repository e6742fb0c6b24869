"""Tiers: the implementations of block-sparse attention, and which of them a machine gets."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

TIERS: dict[str, str] = {
    "reference": "accel.kernels.reference",
    "torch": "accel.kernels.gathered_attention",
    "triton": "accel.kernels.triton_attention",
    "hopper": "accel.kernels.hopper_attention",
}
HOPPER_UNPROVEN = "has not been proven on a GPU yet and runs only where it is asked for"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


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
    """The tier for heads of `head_dim` in `dtype` on `device`: Triton on a GPU, PyTorch elsewhere."""
    device = torch.device(device)
    not_triton = cannot_run("triton", device, dtype, head_dim)
    if device.type == "cuda" and not_triton is None:
        if cannot_run("hopper", device, dtype, head_dim) is None:
            return TierChoice("triton", f"a Triton kernel for any GPU; the hopper tier {HOPPER_UNPROVEN}")
        return TierChoice("triton", "a Triton kernel for any GPU")
    not_torch = cannot_run("torch", device, dtype, head_dim)
    return TierChoice(
        "torch",
        f"gathers the listed blocks in PyTorch; the triton tier {not_triton}",
        unsupported=None if not_torch is None else f"the torch tier {not_torch}",
    )


def cannot_run(name: str, device: torch.device | str, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why tier `name` cannot run such a call, to be read after its name; none if it can."""
    device = torch.device(device)
    if dtype not in FLOATS:
        return f"does not take {dtype}"
    if device.type == "meta":
        return "needs numbers, and tensors on the meta device have none"
    if name in ("reference", "torch"):
        return None
    reason = _triton_cannot_run(device, dtype, head_dim)
    return reason or (_hopper_cannot_run(device, dtype, head_dim) if name == "hopper" else None)


def _triton_cannot_run(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    if find_spec("triton") is None:
        return "needs the triton package"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"needs a GPU, not {device.type}"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "needs a GPU, and PyTorch sees none"
    if (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) < (8, 0)
    ):
        return "needs compute capability 8.0 or above"
    if dtype == torch.float64:
        return "does not take torch.float64"
    if not 16 <= head_dim <= 256:
        return f"takes head dims from 16 to 256, not {head_dim}"
    return None


def _hopper_cannot_run(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    if device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(device) != (9, 0):
        return "needs a Hopper GPU, compute capability 9.0"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"does not take {dtype}"
    return None if head_dim in (64, 128) else f"takes head dims 64 and 128, not {head_dim}"


def load_tier(name: str) -> Callable[..., Any]:
    """The tier's `block_sparse_attention`; what it needs (Triton, say) is imported now and not before."""
    return importlib.import_module(TIERS[name]).block_sparse_attention
