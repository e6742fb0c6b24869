"""The process that checks a tier: a child, which may hang or die, and what its end says.

The child compiles all kernels first, by several threads, and says so; only then does its time run. A slow
compiler says nothing about a tier.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

import torch

from accel.kernels.check.forms import OUT_OF_MEMORY, compile_calls, first_failure
from accel.kernels.check_results import PASSED

SECONDS = 300
COMPILE_SECONDS = 1800
COMPILED = "compiled"
NOT_CHECKED = "could not be checked on this machine"
RESULT = "result: "
KILLED_FROM_OUTSIDE = (-9, -15)  # by the system where memory ran out, say


def check_in_process(tier: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Check a tier for one type and head dim: `PASSED`, or what is wrong, phrased to follow its name.

    A result that begins with `NOT_CHECKED` says nothing about the tier.
    """
    return outcome(command(child, tier, device, dtype, head_dim), SECONDS, COMPILE_SECONDS)


def command(
    run: Callable[[str, str, str, int], None],
    tiers: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
) -> list[str]:
    """What calls `run`, a function of a module, in an interpreter that imports from the same places."""
    arguments = (tiers, str(device), str(dtype).removeprefix("torch."), head_dim)
    imports = f"import sys; sys.path[:] = {sys.path!r}; from {run.__module__} import {run.__name__}"
    return [sys.executable, "-c", f"{imports}; {run.__name__}{arguments!r}"]


def child(tier: str, device: str, dtype: str, head_dim: int) -> None:
    """Print the name of each form of call before it runs and, last, the result."""

    def check() -> str:
        compile_calls(tier, device, getattr(torch, dtype), head_dim)
        said(COMPILED)
        failure = first_failure(tier, device, getattr(torch, dtype), head_dim, tell=said)
        return PASSED if failure is None else f"failed its check on this machine: {failure}"

    end_with(check, device)


def end_with(check: Callable[[], str], device: str) -> None:
    """Print, last, the result that `check` returns; what a full GPU leaves of it says nothing."""
    if hasattr(signal, "alarm"):
        # Ends a check that hangs after the parent has gone.
        signal.alarm(COMPILE_SECONDS + SECONDS + 10)
    torch.zeros(1, device=device)
    try:
        found = check()
    except RuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        found = f"{NOT_CHECKED}: {OUT_OF_MEMORY}"
    said(RESULT + found)


def said(line: str) -> None:
    print(line, flush=True)


def outcome(command: Sequence[str], seconds: float, compile_seconds: float) -> str:
    """Run a child process, and judge by what it printed and how it ended.

    Args:
        seconds: how long it may run once it has compiled, which may take `compile_seconds`.
    """
    return printed_and_outcome(command, seconds, compile_seconds)[1]


def printed_and_outcome(
    command: Sequence[str], seconds: float, compile_seconds: float
) -> tuple[list[str], str]:
    """The lines that a child process printed, and its `outcome`."""
    if getattr(sys, "frozen", False) or not sys.executable:
        return [], f"{NOT_CHECKED}: this program is not a Python interpreter that can start another"
    # The same devices, and the compiled kernels: an interpreted one says nothing about them.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=printed, stderr=complaints, env=environment,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return [], f"{NOT_CHECKED}: {error}"
        try:
            late = _late(process, printed, seconds, compile_seconds)
        finally:
            _end(process)
        lines = _text(printed).splitlines()
        if late is None and process.returncode in KILLED_FROM_OUTSIDE:
            return lines, f"{NOT_CHECKED}: its check was killed from outside"
        end = late or f"ended the process of its check with code {process.returncode}"
        return lines, judged(lines, _text(complaints), end)


def _late(
    process: subprocess.Popen[bytes], printed: IO[bytes], seconds: float, compile_seconds: float
) -> str | None:
    """Wait for a child; None if it ends in time, else what it did not do."""
    started, compiled = time.monotonic(), None
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
            return None
        now = time.monotonic()
        if compiled is None and COMPILED in _text(printed).splitlines():
            compiled = now
        if compiled is None and now - started > compile_seconds:
            return f"{NOT_CHECKED}: its kernels were not compiled within {compile_seconds:g} s"
        if compiled is not None and now - compiled > seconds:
            return f"did not finish its check within {seconds:g} s"


def _text(file: IO[bytes]) -> str:
    """What has been written to a file so far, without moving where a child writes next."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a child and all that it started, compilers say."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
    # A driver may hold a process whose kernel hangs; it is left to the system.
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


def judged(lines: Sequence[str], complaints: str, end: str) -> str:
    """The result from the lines on the child's two outputs and from how it ended."""
    if end.startswith(NOT_CHECKED):
        return end
    for line in lines:
        if line.startswith(RESULT):
            return line.removeprefix(RESULT)
    why = "".join(f" ({line.strip()})" for line in complaints.strip().splitlines()[-1:])
    return f"{end}, at: {lines[-1]}{why}" if lines else f"{NOT_CHECKED}: it never began, and {end}{why}"
