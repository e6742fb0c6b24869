"""Check results: what the checks of tiers found on this machine.

Kernels only read the file, once a process; `accel.machine.tier_check` makes the checks and writes.
"""

from __future__ import annotations

import json
import os
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import torch

PASSED = "passed"
T = TypeVar("T")


def check_result(tier: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """`PASSED`, or what is wrong, phrased to follow the tier's name; None if it was never checked."""
    return known().get(key(tier, device, dtype, head_dim))


@cache
def known() -> dict[str, str]:
    """Key to result: what this process and earlier ones found."""
    return read_file()


def read_file() -> dict[str, str]:
    """The stored results; empty if the file is missing or cannot be read."""
    return entries(results_file(), str)


def entries(path: Path, kind: type[T]) -> dict[str, T]:
    """The entries of a JSON file whose values have the given type; empty if it is missing or unreadable."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    items = data.items() if isinstance(data, dict) else ()
    return {key: found for key, found in items if isinstance(found, kind)}


def results_file() -> Path:
    """Where they are kept; after deleting the file, the tiers are checked again."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "sparse-accel" / "tiers.json"


@lru_cache(maxsize=1024)
def key(tier: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """All that a result depends on: tier, type, head dim, GPU, versions and kernel sources."""
    return " | ".join((tier, str(dtype).removeprefix("torch."), str(head_dim), *_machine(device), _sources()))


def _machine(device: torch.device) -> tuple[str, ...]:
    versions = f"torch {torch.__version__}"
    if device.type != "cuda":
        return device.type, versions
    import triton

    capability = "{}.{}".format(*torch.cuda.get_device_capability(device))
    name = torch.cuda.get_device_name(device)
    return name, capability, f"driver {_driver()}", versions, f"triton {triton.__version__}"


@cache
def _driver() -> str:
    """The NVIDIA driver's own line; empty where the system does not show it."""
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, ValueError, IndexError):
        return ""


@cache
def _sources() -> str:
    """A hash of all kernel sources: tiers share files, and one check too many costs little."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
