"""The versions and the machine a number was measured with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from accel.version import VERSION

PACKAGES = ("torch", "triton", "diffusers", "transformers", "accelerate")


def versions() -> dict[str, str]:
    """Library to version; what is not installed is left out.

    This project's is that of the code that runs: an editable installation's metadata can be older.
    """
    found = {"python": platform.python_version(), "sparse-accel": VERSION}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device | str) -> str:
    """A device in words: the GPU's name, or the CPU with its threads."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return device.type
