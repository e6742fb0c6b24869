"""The tier of the block-sparse attention in NVIDIA's cuDNN frontend, which users install separately.

Compute capability 9.0, 10.x, 11.0 and 12.0; square blocks of 64 or 128, which layouts of 128 x 64 are mapped
to by listing each list for two blocks of queries. Neither causality nor windows.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from accel.kernels.attention.tier import HALVES, Tier, on_nvidia
from accel.kernels.layout.layout import BlockLayout

WHEELS = {"nvidia-cudnn-frontend": (1, 32), "nvidia-cutlass-dsl": (0, 0)}
HEAD_DIMS = {9: (64, 96, 128), 10: (64, 96, 128), 11: (64, 96, 128), 12: (128,)}  # by major capability
BLOCKS = ((128, 128), (128, 64), (64, 64))


def cannot_run(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why cuDNN cannot run such a call, phrased to follow the tier's name; None if it can."""
    capability = on_nvidia(device)
    if capability is None or capability[0] not in HEAD_DIMS:
        return "needs an NVIDIA GPU of compute capability 9.0, 10.x, 11.0 or 12.0"
    if reason := _not_installed():
        return reason
    takes = HALVES if capability[0] in (9, 12) else (torch.bfloat16,)
    if dtype not in takes:
        return f"does not take {dtype}"
    dims = HEAD_DIMS[capability[0]]
    return None if head_dim in dims else f"takes head dims {', '.join(map(str, dims))} here, not {head_dim}"


def cannot_take(layout: BlockLayout) -> str | None:
    if layout.block_size not in BLOCKS:
        sizes = ", ".join(f"{rows} x {columns}" for rows, columns in BLOCKS)
        return f"takes blocks of {sizes}, got {layout.block_size[0]} x {layout.block_size[1]}"
    if layout.causal or layout.visibility is not None:
        return "does not take causality or a visibility"
    if layout.kv_lengths is None:
        return None
    if layout.kv_order is not None:
        return "does not join an order with padding"
    capability = on_nvidia(layout.device)
    if capability is not None and capability[0] in (10, 11):
        return "does not take padding on compute capability 10.x and 11.0"
    return None


@cache
def _not_installed() -> str | None:
    for wheel, least in WHEELS.items():
        try:
            found = version(wheel)
        except PackageNotFoundError:
            return f"needs the package {wheel} (`pip install 'sparse-accel[cudnn]'`)"
        if tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < least:
            return f"needs {wheel} {least[0]}.{least[1]} or later, got {found}"
    return None


TIER = Tier("accel.kernels.cudnn.attention", cannot_run, cannot_take, needs_check=True)
