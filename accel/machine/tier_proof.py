"""The proof of a tier: tried once a machine, before the first call that it could run; the verdict is kept.

`accel.kernels.proof.forms` says what is tried; `accel.kernels.attention.verdicts` reads what is kept here.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from accel.files import FolderLock, whole_file
from accel.kernels.attention.tier import Precision
from accel.kernels.attention.tiers import cannot_run, on_proof
from accel.kernels.attention.verdicts import PASSED, key, known, read_file, verdict, verdict_file
from accel.machine.tier_trial import NOT_TESTED, SECONDS, trial

SWITCH = "ACCEL_PROVE"
_ONE_AT_A_TIME = threading.Lock()


def prove_if_unknown(
    device: torch.device, dtype: torch.dtype, head_dim: int, precision: Precision | None = None
) -> None:
    """Try the tiers that could run such calls here and about which nothing is known, and say so; those that
    round to a precision only where it is asked for.

    Not while a CUDA graph is captured, and never under ACCEL_PROVE=0. A tier that fails is not an error.
    """
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return
    for tier in (*(on_proof(precision) if precision else ()), *on_proof()):
        if cannot_run(tier, device, dtype, head_dim) or verdict(tier, device, dtype, head_dim):
            continue
        if torch.cuda.is_current_stream_capturing():
            continue
        warnings.warn(
            f"trying the {tier} tier for {str(dtype)[6:]} and head dim {head_dim}, once on this machine: its "
            f"kernels are compiled, then run for {SECONDS} s at most; the verdict is kept in "
            f"{verdict_file()} ({SWITCH}=0 leaves it out)",
            stacklevel=2,
        )
        if (found := prove(tier, device, dtype, head_dim, again=False)) != PASSED:
            warnings.warn(f"the {tier} tier {found}; the Triton tier runs instead", stacklevel=2)


def prove(tier: str, device: torch.device, dtype: torch.dtype, head_dim: int, again: bool = True) -> str:
    """Try a tier and keep the verdict: `PASSED`, or what speaks against the tier, to be read after its name.

    Processes and threads that want to try wait for each other. What says nothing about the tier, a full GPU
    for example, is remembered by this process only.

    Args:
        again: try even if there is a verdict by now.
    """
    about = key(tier, device, dtype, head_dim)
    with _alone():
        known().update(read_file())
        if again or about not in known():
            known()[about] = trial(tier, device, dtype, head_dim)
            _keep(about, known()[about])
    return known()[about]


@contextmanager
def _alone() -> Iterator[None]:
    """Nobody else tries a tier meanwhile, as far as the folder of the verdicts can be locked."""
    lock = FolderLock(verdict_file().parent)
    with _ONE_AT_A_TIME:
        with suppress(OSError):
            lock.folder.mkdir(parents=True, exist_ok=True)
            lock.wait()
        try:
            yield
        finally:
            lock.release()


def _keep(about: str, found: str) -> None:
    """Write the file whole; where it cannot be written, only this process knows."""
    if not found.startswith(NOT_TESTED):
        with suppress(OSError), whole_file(verdict_file()) as draft:
            draft.write_text(json.dumps({**read_file(), about: found}, indent=1), encoding="utf-8")
