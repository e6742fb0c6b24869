"""Faults: when sparse attention fails during a run, its site continues dense, warns once and counts it."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Literal

import torch

STRICT_VARIABLE = "ACCEL_STRICT"
PATIENCE = 3
SHOWN = 100


Kind = Literal["memory", "kernel", "bug"]
Doing = Literal["planning", "the kernel", "reading a forward", "looking back at a forward"]

ADVICE: dict[Kind, str] = {
    "memory": (
        "Free memory for it: a smaller batch or resolution, CPU offload, or a recipe with larger blocks or a "
        "coarser score."
    ),
    "kernel": (
        "`accel doctor` shows what kernel this machine gets; a recipe with another block_size may suit it "
        "better. Please report the error with what `accel doctor` prints."
    ),
    "bug": (
        f"This is a mistake in sparse-accel or in your own method, not in your model: with "
        f"{STRICT_VARIABLE}=1 the error is raised with its traceback. Please report it."
    ),
}


class FaultWarning(UserWarning):
    """Sparse attention failed somewhere and dense attention took over."""


@dataclass(frozen=True)
class Fault:
    """What went wrong in one call. Text only: an exception would keep its tensors alive.

    Args:
        doing: what failed.
        kind: whose fault: memory may be there again at the next call, the others stay.
        error: type and first line of the exception.
    """

    doing: Doing
    kind: Kind
    error: str

    @classmethod
    def of(cls, doing: Doing, error: Exception) -> Fault:
        lines = str(error).strip().splitlines() or [""]
        text = f"{type(error).__name__}: {lines[0]}".removesuffix(": ")
        return cls(doing, kind_of(doing, error), text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")

    @property
    def reason(self) -> str:
        """What it is counted under."""
        if self.kind == "memory":
            return f"out of memory in {self.doing}"
        return f"{self.doing} failed ({self.error})"


def kind_of(doing: Doing, error: Exception) -> Kind:
    """Whose fault an error is, judging from its type and, for PyTorch's plain RuntimeErrors, its text."""
    if ran_out_of_memory(error):
        return "memory"
    text = str(error).lower()
    of_triton = any(cls.__module__.partition(".")[0] == "triton" for cls in type(error).__mro__)
    if of_triton or "triton" in text or (doing == "the kernel" and isinstance(error, RuntimeError | OSError)):
        return "kernel"
    return "bug"


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error says so, by its type or, for PyTorch's plain RuntimeErrors, its text."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def errors_pass() -> bool:
    """Whether errors are raised: `ACCEL_STRICT=1`, for tests and for people who write methods."""
    return os.environ.get(STRICT_VARIABLE) == "1"


class Faults:
    """What went wrong at one site, and whether its calls are still tried.

    A site that fails runs dense from then on. Where memory ran out it is tried again until it has failed
    `PATIENCE` times in a row.

    Args:
        site: its name, for the warning.
        warned: reasons that have been warned about; the sites of one patch share the set.

    Attributes:
        stays_dense: why no call is tried any more; None while calls are.
        failures: failed calls since the last one that succeeded.
    """

    def __init__(self, site: str, warned: set[str]) -> None:
        self.site = site
        self.warned = warned
        self.stays_dense: str | None = None
        self.failures = 0

    def remember(self, fault: Fault) -> str:
        """Warn about a fault once, decide whether the site is tried again; returns the reason."""
        self.failures += 1
        if fault.kind != "memory" or self.failures >= PATIENCE:
            self.stays_dense = fault.reason
        if fault.reason not in self.warned:
            self.warned.add(fault.reason)
            warnings.warn(self._message(fault), FaultWarning, stacklevel=2)
        return fault.reason

    def _message(self, fault: Fault) -> str:
        until = "this call" if self.stays_dense is None else "this site"
        return (
            f"sparse attention failed at {self.site}, in {fault.doing}: {fault.error}. Dense attention has "
            f"taken over for {until}; the result is right, only slower. {ADVICE[fault.kind]} Other sites "
            "that fail in the same way are only counted: see summary()."
        )


def hook_fault(doing: Doing, error: Exception, warned: set[str]) -> str:
    """Warn, once, of an error in what watches a forward; returns the reason its calls run dense.

    Raises:
        Exception: the error itself under `ACCEL_STRICT=1`.
    """
    if errors_pass():
        raise error
    fault = Fault.of(doing, error)
    if fault.reason not in warned:
        warned.add(fault.reason)
        warnings.warn(
            f"sparse attention failed outside any site, in {doing}: {fault.error}. The result is right: "
            f"where a forward could not be read, its attention is dense. {ADVICE[fault.kind]}",
            FaultWarning,
            stacklevel=2,
        )
    return fault.reason
