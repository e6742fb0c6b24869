"""The trial of a tier: its test in a child process, which may hang or die, and what the end of it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import torch

from accel.kernels.attention.verdicts import PASSED
from accel.kernels.proof.forms import OUT_OF_MEMORY, first_failure

SECONDS = 300
NOT_TESTED = "could not be tested on this machine"
VERDICT = "verdict: "
KILLED_FROM_OUTSIDE = (-9, -15)  # by the system where memory ran out, say


def trial(tier: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Test a tier for one type and head dim: `PASSED`, or what speaks against it, to be read after its name.

    What begins with `NOT_TESTED` says nothing about the tier.
    """
    return outcome(command(tier, device, dtype, head_dim), SECONDS)


def command(tier: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
    """What runs `child` in an interpreter that imports from the same places."""
    arguments = (tier, str(device), str(dtype).removeprefix("torch."), head_dim)
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import child; child{arguments!r}"
    return [sys.executable, "-c", code]


def child(tier: str, device: str, dtype: str, head_dim: int) -> None:
    """Print the name of each form of call before it is tested and, last, the verdict."""
    if hasattr(signal, "alarm"):
        # Ends a test that hangs where the parent has gone.
        signal.alarm(SECONDS + 10)
    torch.zeros(1, device=device)
    try:
        failure = first_failure(tier, device, getattr(torch, dtype), head_dim, tell=said)
        found = PASSED if failure is None else f"failed its test on this machine: {failure}"
    except RuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        found = f"{NOT_TESTED}: {OUT_OF_MEMORY}"
    said(VERDICT + found)


def said(line: str) -> None:
    print(line, flush=True)


def outcome(command: Sequence[str], seconds: float) -> str:
    """Run a child for at most so long, and tell the verdict by what it printed and how it ended."""
    if getattr(sys, "frozen", False) or not sys.executable:
        return f"{NOT_TESTED}: this program is no Python interpreter that could start another"
    # The same devices, and the compiled kernels: an interpreted one proves nothing of them.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return f"{NOT_TESTED}: {error}"
    try:
        printed, complaints = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        printed, complaints = _killed(process)
        return judged(printed, complaints, f"did not finish its test within {seconds:g} s")
    except BaseException:
        _killed(process)
        raise
    if process.returncode in KILLED_FROM_OUTSIDE:
        return f"{NOT_TESTED}: its test was killed from outside"
    return judged(printed, complaints, f"ended its test's process with code {process.returncode}")


def _killed(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End a child and all that it started, compilers say; gives what it had printed."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
    try:
        return process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        # A driver may hold a process whose kernel hangs; it is left to the system.
        return "", ""


def judged(printed: str, complaints: str, end: str) -> str:
    """The verdict from the lines on the child's two outputs and from how it ended."""
    lines = printed.splitlines()
    for line in lines:
        if line.startswith(VERDICT):
            return line.removeprefix(VERDICT)
    why = "".join(f" ({line.strip()})" for line in complaints.strip().splitlines()[-1:])
    return f"{end}, at: {lines[-1]}{why}" if lines else f"{NOT_TESTED}: it never began, and {end}{why}"
