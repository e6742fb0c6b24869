"""Tier: one implementation of block-sparse attention, and what it cannot do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from accel.kernels.launch import Config
    from accel.kernels.layout.layout import BlockLayout

Precision = Literal["int8"]
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HALVES = (torch.float16, torch.bfloat16)


def runs_anywhere(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """The `cannot_run` of a tier that runs on every device."""
    return None


def takes_all(layout: BlockLayout) -> str | None:
    """The `cannot_take` of a tier that takes every layout."""
    return None


def takes_no_visibility(layout: BlockLayout) -> str | None:
    """The `cannot_take` of a tier that takes every layout but those with a visibility."""
    return None if layout.visibility is None else "does not take a visibility, such as causality in chunks"


@dataclass(frozen=True)
class Tier:
    """An implementation, declared next to its kernel in a file that imports nothing the kernel needs.

    Args:
        module: where its `function` is, imported when it first runs.
        cannot_run: why it cannot run heads of a size and type on a device, phrased to follow the tier's name;
            None where it can. Integer types and the meta device never get here.
        cannot_take: why it cannot run a layout, in the same form.
        needs_check: whether it may run by the machine's choice, once it has passed its check there.
        precision: what it rounds queries and keys to. Such a tier runs only where this is asked for.
        error: the norm of the error over that of the output, in float64, which a tier that rounds may have in
            its check; None for those held to the tolerance of all.
        function: the name of the implementation in its module.
        configurations: the module of its `candidates`, of which each machine takes the fastest.
    """

    module: str
    cannot_run: Callable[[torch.device, torch.dtype, int], str | None]
    cannot_take: Callable[[BlockLayout], str | None] = takes_all
    needs_check: bool = False
    precision: Precision | None = None
    error: float | None = None
    function: str = "block_sparse_attention"
    configurations: str | None = None

    def candidates(self, target: tuple[str, str], block: tuple[int, int], head_dim: int) -> list[Config]:
        """Configurations of its kernel for half types, the usual one first; empty if it has no others."""
        if self.configurations is None:
            return []
        module = importlib.import_module(self.configurations)
        found: list[Config] = module.candidates(target, *block, head_dim, itemsize=2)
        return found

    def load(self) -> Callable[..., Any]:
        """Its function; what it needs (Triton, say) is imported now and not before."""
        return getattr(importlib.import_module(self.module), self.function)


def require(name: str, *against: str | None) -> None:
    """Raise a ValueError if a tier's functions object to a call."""
    for reason in against:
        if reason is not None:
            raise ValueError(f"the {name} tier {reason}")


def on_nvidia(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of an NVIDIA GPU; None for any other device."""
    if device.type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability(device)
