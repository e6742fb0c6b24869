"""The tier of the Triton kernel: any GPU from compute capability 8.0 on, and AMD's."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from accel.kernels.attention.tier import Tier, on_nvidia

DIMS = (16, 256)


def cannot_run(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why no kernel in Triton can run such a call, phrased to follow the tier's name; None if they can."""
    if find_spec("triton") is None:
        return "needs the triton package"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"needs a GPU, not {device.type}"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "needs a GPU, and PyTorch sees none"
    capability = on_nvidia(device)
    if capability is not None and capability < (8, 0):
        return "needs compute capability 8.0 or above"
    if dtype == torch.float64:
        return "does not take torch.float64"
    if not DIMS[0] <= head_dim <= DIMS[1]:
        return f"takes head dims from {DIMS[0]} to {DIMS[1]}, not {head_dim}"
    return None


TIER = Tier(
    "accel.kernels.attention.triton",
    cannot_run,
    configurations="accel.kernels.attention.configurations",
)
