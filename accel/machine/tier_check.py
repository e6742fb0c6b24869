"""The check of a tier: made once a machine, before the first call that it could run; the result is kept.

`accel.kernels.check.forms` says what is run; `accel.kernels.check_results` reads what is kept here.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from accel.files import FolderLock, write_whole
from accel.kernels.attention.tier import Precision
from accel.kernels.attention.tiers import cannot_run, checked_tiers
from accel.kernels.check_results import PASSED, check_result, key, known, read_file, results_file
from accel.machine.tier_check_process import NOT_CHECKED, SECONDS, check_in_process

SWITCH = "ACCEL_CHECK"
_ONE_AT_A_TIME = threading.Lock()


def check_if_unknown(
    device: torch.device, dtype: torch.dtype, head_dim: int, precision: Precision | None = None
) -> None:
    """Check the tiers that could run such calls here and about which nothing is known, with a warning.

    Those that round to a precision are checked only where it is asked for.

    Not while a CUDA graph is captured, and never under ACCEL_CHECK=0. A tier that fails is not an error.
    """
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return
    for tier in (*(checked_tiers(precision) if precision else ()), *checked_tiers()):
        if cannot_run(tier, device, dtype, head_dim) or check_result(tier, device, dtype, head_dim):
            continue
        if torch.cuda.is_current_stream_capturing():
            continue
        warnings.warn(
            f"checking the {tier} tier for {str(dtype)[6:]} and head dim {head_dim}, once on this machine: "
            f"its kernels are compiled, then run for {SECONDS} s at most; the result is kept in "
            f"{results_file()} ({SWITCH}=0 skips it)",
            stacklevel=2,
        )
        if (found := check_tier(tier, device, dtype, head_dim, again=False)) != PASSED:
            warnings.warn(f"the {tier} tier {found}; the Triton tier runs instead", stacklevel=2)


def check_tier(tier: str, device: torch.device, dtype: torch.dtype, head_dim: int, again: bool = True) -> str:
    """Check a tier and keep the result: `PASSED`, or what is wrong, phrased to follow the name of the tier.

    Processes and threads that want to check it wait for each other. What says nothing about the tier, for
    example a full GPU, is remembered by this process only.

    Args:
        again: check it even if there already is a result.
    """
    about = key(tier, device, dtype, head_dim)
    with alone():
        known().update(read_file())
        if again or about not in known():
            known()[about] = check_in_process(tier, device, dtype, head_dim)
            _keep(about, known()[about])
    return known()[about]


@contextmanager
def alone() -> Iterator[None]:
    """No other thread or process checks a tier meanwhile, where the folder of the results can be locked."""
    lock = FolderLock(results_file().parent)
    with _ONE_AT_A_TIME:
        with suppress(OSError):
            lock.folder.mkdir(parents=True, exist_ok=True)
            lock.hold(wait=True)
        try:
            yield
        finally:
            lock.release()


def _keep(about: str, found: str) -> None:
    """Write the file whole; where it cannot be written, only this process knows."""
    if not found.startswith(NOT_CHECKED):
        with suppress(OSError):
            write_whole(results_file(), json.dumps({**read_file(), about: found}, indent=1))
