"""Tiers: the implementations of block-sparse attention, and which of them a machine gets."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from accel.kernels.attention.verdicts import PASSED, verdict

if TYPE_CHECKING:
    from accel.kernels.layout.layout import BlockLayout

TIERS: dict[str, str] = {
    "reference": "accel.kernels.attention.reference",
    "torch": "accel.kernels.attention.gathered",
    "triton": "accel.kernels.attention.triton",
    "hopper": "accel.kernels.hopper.attention",
    "fp8": "accel.kernels.fp8.attention",  # fourteen times the error of bf16: only where it is asked for
}
# Before Triton, the fastest first, and each only where it has passed its test on the machine.
ON_PROOF = ("hopper",)
UNTESTED = "has not been tested on this machine yet; `accel doctor --prove` does so"
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


def choose_tier(
    device: torch.device | str, dtype: torch.dtype, head_dim: int, layout: BlockLayout | None = None
) -> TierChoice:
    """The tier for heads of `head_dim` in `dtype` on `device`, and for `layout` if one is given: Triton on a
    GPU, or a faster one that has passed its test there; PyTorch elsewhere."""
    device = torch.device(device)
    not_triton = cannot_run("triton", device, dtype, head_dim)
    if device.type == "cuda" and not_triton is None:
        return _choose_on_gpu(device, dtype, head_dim, layout)
    not_torch = cannot_run("torch", device, dtype, head_dim)
    return TierChoice(
        "torch",
        f"gathers the listed blocks in PyTorch; the triton tier {not_triton}",
        unsupported=None if not_torch is None else f"the torch tier {not_torch}",
    )


def _choose_on_gpu(
    device: torch.device, dtype: torch.dtype, head_dim: int, layout: BlockLayout | None
) -> TierChoice:
    reason = "a Triton kernel for any GPU"
    for name in ON_PROOF:
        if cannot_run(name, device, dtype, head_dim) is not None:
            continue
        against = untrusted(name, device, dtype, head_dim)
        if against is None and layout is not None:
            against = cannot_take(name, layout)
        if against is None:
            return TierChoice(name, "a kernel for this GPU, which has passed its test on this machine")
        reason += f"; the {name} tier {against}"
    return TierChoice("triton", reason)


def untrusted(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why a tier of `ON_PROOF` is not taken for calls that it could run; none if it is."""
    found = verdict(name, device, dtype, head_dim) or UNTESTED
    return None if found == PASSED else found


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
    if reason is None and name == "fp8" and head_dim not in (64, 128):
        return f"takes head dims 64 and 128, not {head_dim}"
    return reason or (_hopper_cannot_run(device, dtype, head_dim) if name in ("hopper", "fp8") else None)


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
    if head_dim % 8:
        return f"takes head dims that are multiples of 8, not {head_dim}"
    return None


def cannot_take(name: str, layout: BlockLayout) -> str | None:
    """Why tier `name` cannot run a layout, to be read after its name; none if it can."""
    if name not in ("hopper", "fp8"):
        return None
    if layout.block_size[0] != 128:
        return f"takes query blocks of 128, got {layout.block_size[0]}"
    return _fp8_cannot_take(layout) if name == "fp8" else None


def _fp8_cannot_take(layout: BlockLayout) -> str | None:
    if layout.block_size[1] == 16:
        return "takes key blocks of 32, 64 and 128, got 16"
    if layout.window is not None:
        return "does not take a window"
    if (layout.q_order or layout.kv_order) and (layout.causal or layout.kv_lengths is not None):
        return "does not join an order with causality or padding"
    return None


def load_tier(name: str) -> Callable[..., Any]:
    """The tier's `block_sparse_attention`; what it needs (Triton, say) is imported now and not before."""
    return importlib.import_module(TIERS[name]).block_sparse_attention


def attention_for(q: Tensor, layout: BlockLayout, asked: str | None) -> Callable[..., Any]:
    """The `block_sparse_attention` of the tier that is asked for, or of the best one for the call.

    Raises:
        ValueError: if it cannot run there.
    """
    return load_tier(_tier(q, layout, asked))


def _tier(q: Tensor, layout: BlockLayout, asked: str | None) -> str:
    if asked is None:
        choice = choose_tier(q.device, q.dtype, q.shape[-1], layout)
        if choice.unsupported is not None:
            raise ValueError(f"no tier can run this call: {choice.unsupported}")
        return choice.name
    if asked not in TIERS:
        raise ValueError(f"tier must be one of {sorted(TIERS)}, got {asked!r}")
    if reason := cannot_run(asked, q.device, q.dtype, q.shape[-1]):
        raise ValueError(f"the {asked} tier cannot run this call: it {reason}")
    return asked
