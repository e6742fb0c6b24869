"""The timing of tiers and of their kernels' configurations: once per machine, in a child process.

`accel.kernels.check.timing` says what is timed; `accel.kernels.timings` reads what is stored here.
Only `accelerate_model` and `accel doctor --check` start it: no generation waits for a timing.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from contextlib import suppress

import torch

from accel.files import write_whole
from accel.kernels.attention.tier import HALVES
from accel.kernels.attention.tiers import TIERS, cannot_run, tier
from accel.kernels.check_results import PASSED, check_result, entries
from accel.kernels.timings import BLOCKS, Call, known, timings_file
from accel.machine.tier_check import SWITCH, alone
from accel.machine.tier_check_process import (
    COMPILE_SECONDS,
    COMPILED,
    NOT_CHECKED,
    command,
    end_with,
    printed_and_outcome,
    said,
)

SECONDS = 60
TIMED = "timed: "


def time_if_unknown(device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Time the tiers that have passed their check, and Triton, if one of them has no time yet.

    Not while a CUDA graph is captured, and never under ACCEL_CHECK=0. A timing that fails is not an error:
    tiers run in the order of `TIERS` then, and kernels in their first configuration.
    """
    if device.type != "cuda" or os.environ.get(SWITCH) == "0" or torch.cuda.is_current_stream_capturing():
        return
    if not _untimed(device, dtype, head_dim):
        return
    warnings.warn(
        f"timing kernels for {str(dtype)[6:]} and head dim {head_dim}, once on this machine; "
        f"the result is kept in {timings_file()} ({SWITCH}=0 skips it)",
        stacklevel=2,
    )
    if problem := time_tiers(device, dtype, head_dim, again=False):
        warnings.warn(f"kernels were not timed: {problem}", stacklevel=2)


def time_tiers(device: torch.device, dtype: torch.dtype, head_dim: int, again: bool = True) -> str | None:
    """Time them and keep the results; why not, if that says nothing about them: a full GPU, for example.

    Processes and threads that want to check or time wait for each other.

    Args:
        again: time them even if all have times already.
    """
    with alone():
        known().update(entries(timings_file(), float))
        tiers = _usable(device, dtype, head_dim)
        if not tiers or not (again or _untimed(device, dtype, head_dim)):
            return None
        found, result = time_in_process(tiers, device, dtype, head_dim)
        calls = (Call(device, dtype, head_dim, block) for block in BLOCKS)
        known().update({call.key(name): math.inf for call in calls for name in tiers})
        known().update(found)
        if result.startswith(NOT_CHECKED):
            return result
        with suppress(OSError):
            write_whole(timings_file(), json.dumps(known(), indent=1))
    return None


def tier_times(call: Call) -> dict[str, float]:
    """Seconds of the tiers that have been timed for such calls and can run them, the fastest first."""
    found = ((known().get(call.key(name), math.inf), name) for name in TIERS)
    return {name: seconds for seconds, name in sorted(found) if seconds < math.inf}


def time_in_process(
    tiers: list[str], device: torch.device, dtype: torch.dtype, head_dim: int
) -> tuple[dict[str, float], str]:
    """Seconds by `Call.key`, as far as the child process got, and how it ended."""
    run = command(child, " ".join(tiers), device, dtype, head_dim)
    lines, result = printed_and_outcome(run, SECONDS, COMPILE_SECONDS)
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith(TIMED):
            found.update(json.loads(line.removeprefix(TIMED)))
    return found, result


def child(tiers: str, device: str, dtype: str, head_dim: int) -> None:
    """Print each time as soon as it is known and, last, that nothing went wrong."""
    from accel.kernels.check.timing import compile_candidates, timings

    def check() -> str:
        call = tiers.split(), torch.device(device), getattr(torch, dtype), head_dim
        compile_candidates(*call)
        said(COMPILED)
        for key, seconds in timings(*call):
            said(TIMED + json.dumps({key: seconds}))
        return PASSED

    end_with(check, device)


def _usable(device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
    """The tiers that a call may run on here; none where there is nothing to choose."""
    if dtype not in HALVES or cannot_run("triton", device, dtype, head_dim):
        return []
    checked = [
        name
        for name in TIERS
        if tier(name).needs_check
        and cannot_run(name, device, dtype, head_dim) is None
        and check_result(name, device, dtype, head_dim) == PASSED
    ]
    return [*checked, "triton"]


def _untimed(device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
    calls = [Call(device, dtype, head_dim, block) for block in BLOCKS]
    usable = _usable(device, dtype, head_dim)
    return [name for name in usable if any(call.key(name) not in known() for call in calls)]
