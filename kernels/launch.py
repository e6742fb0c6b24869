"""How the Triton kernels are launched: options that all share, strides, and configurations until one fits."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

Config = dict[str, int]
UNIT = 8  # numbers of a half type in the 16 bytes that a thread loads at once

_ONLY_COMPILES: ContextVar[bool] = ContextVar("only_compiles", default=False)
_FITTING: dict[Hashable, int] = {}


def launch(kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
    """Launch `programs` programs of a kernel, all on the first axis: the others end at 65,535.

    Products and sums are fused, which releases of Triton have different defaults for.
    """
    options["enable_fp_fusion"] = True
    if _ONLY_COMPILES.get():
        kernel.warmup(*arguments, grid=(programs,), **options)
    else:
        kernel[(programs,)](*arguments, **options)


@contextmanager
def only_compiling(threads: int) -> Iterator[None]:
    """Kernels launched within are compiled, by so many threads at once, and do not run: outputs are garbage.

    All are compiled when the context ends. What does not compile raises when it is launched to run.
    """
    token = _ONLY_COMPILES.set(True)
    try:
        with ThreadPoolExecutor(threads) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
            yield
    finally:
        _ONLY_COMPILES.reset(token)


def launch_fitting(about: Hashable, ladder: Sequence[Config], start: Callable[[Config], None]) -> None:
    """Start with the first configuration of a ladder that the device has room for, remembered by `about` and
    by the ladder's first.

    Raises:
        OutOfResources: if it has no room for the last one either.
    """
    about = (about, *ladder[0].items())
    for rung in range(_FITTING.get(about, 0), len(ladder)):
        try:
            start(ladder[rung])
        except OutOfResources:
            if rung + 1 == len(ladder):
                raise
        else:
            _FITTING[about] = rung
            return


def target() -> tuple[str, str]:
    """The back end and the architecture that kernels are compiled for: ("cuda", "90"), ("hip", "gfx942").

    Two empty strings in the interpreter.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "", ""
    found = triton.runtime.driver.active.get_current_target()
    return found.backend, str(found.arch)


def unit_of(*tensors: Tensor) -> int:
    """`UNIT` if rows of all `tensors` [B, H, N, D] begin at multiples of it, else 1.

    Strides are handed over in units of it, and kernels multiply by the constant: so the compiler knows how
    rows are aligned whatever the strides are, and need not be called again for others.
    """
    axes = (axis for x in tensors for axis in zip(x.stride()[:3], x.shape[:3], strict=True))
    return UNIT if all(step % UNIT == 0 for step, size in axes if size > 1) else 1


def aligned(tokens: Tensor) -> Tensor:
    """`tokens`, copied if TMA cannot address them: rows dense, all strides multiples of 16 bytes."""
    strided = [s for s, n in zip(tokens.stride()[:3], tokens.shape[:3], strict=True) if n > 1]
    dense = tokens.stride(-1) == 1 and all(s > 0 and s * tokens.itemsize % 16 == 0 for s in strided)
    if dense and tokens.data_ptr() % 16 == 0:
        return tokens
    # `contiguous` would give back a dense tensor that begins between two multiples of 16 bytes.
    return tokens.clone(memory_format=torch.contiguous_format)


def strides(tensor: Tensor | None, unit: int = 1) -> tuple[int, ...]:
    """Strides of (sample, head, row) in units, 0 where the tensor has one sample or head for all."""
    if tensor is None:
        return (0, 0, 0)
    b, h, row = tensor.stride()[:3]
    steps = (b if tensor.shape[0] > 1 else 0, h if tensor.shape[1] > 1 else 0, row)
    return tuple(step // unit for step in steps)


def apart(tensor: Tensor | None) -> tuple[int, int]:
    """How many heads of a contiguous [B | 1, H | 1, ...] a sample, and a head, are apart: 0 where shared."""
    if tensor is None:
        return (0, 0)
    samples, heads = tensor.shape[:2]
    return (heads if samples > 1 else 0, 1 if heads > 1 else 0)
