"""Faults: when sparse attention fails during a run, its site goes on dense, says so once and counts it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from accel.sites.call_record import CallRecord

STRICT_VARIABLE = "ACCEL_STRICT"
PATIENCE = 3
SHOWN = 100


class Planned(Protocol):
    """What was planned for a call: a layout, or several."""

    @property
    def density(self) -> Tensor: ...


T = TypeVar("T")
P = TypeVar("P", bound=Planned)
Kind = Literal["memory", "kernel", "bug"]
Doing = Literal["planning", "the kernel"]

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
        f"This is a mistake in sparse-accel or in a method of your own, not in your model: with "
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
    """Whose fault an error is, told from its type and, for PyTorch's plain RuntimeErrors, its text."""
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "memory"
    if isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text):
        return "memory"
    of_triton = any(cls.__module__.partition(".")[0] == "triton" for cls in type(error).__mro__)
    if of_triton or "triton" in text or (doing == "the kernel" and isinstance(error, RuntimeError | OSError)):
        return "kernel"
    return "bug"


class Guard:
    """Runs the sparse calls of one site, and dense ones where they fail.

    A site that fails is dense from then on, but where memory ran out it is tried again until it has failed
    `PATIENCE` times in a row. Interrupts are no faults: they pass. `ACCEL_STRICT=1` in the environment lets
    every error pass, for tests and for those who write methods. Waits for no device.

    Args:
        site: its name, for the warning.
        told: reasons that have been warned about; the sites of one patch share it.

    Attributes:
        stays_dense: why no call is tried any more; none while calls are.
    """

    def __init__(self, site: str, told: set[str]) -> None:
        self.site = site
        self.told = told
        self.stays_dense: str | None = None
        self.failures = 0

    def run(
        self,
        plan: Callable[[], P],
        attend: Callable[[P], Tensor],
        dense: Callable[[], Tensor],
        record: CallRecord,
        step: int | None,
        alone: bool = True,
    ) -> Tensor:
        """The sparse output if it can be had, else the dense one.

        Args:
            alone: other processes do not wait for this one's planning. Where they do, errors pass: one that
                went on dense would leave them waiting.

        Raises:
            Exception: what `dense` raises. If dense attention cannot run the call either, the call is to
                blame: nothing is counted against the site.
        """
        if not alone:
            planned = plan()
            record.count_sparse(planned.density, step)
            return attend(planned)
        layout = self.attempt("planning", plan)
        out = layout if isinstance(layout, Fault) else self.attempt("the kernel", lambda: attend(layout))
        if isinstance(layout, Fault) or isinstance(out, Fault):
            fault = layout if isinstance(layout, Fault) else out
            assert isinstance(fault, Fault)
            del layout
            result = dense()
            record.count_dense(self.remember(fault), step)
            return result
        self.failures = 0
        record.count_sparse(layout.density, step)
        return out

    def attempt(self, doing: Doing, function: Callable[[], T]) -> T | Fault:
        """What a function returns, or why it failed."""
        try:
            return function()
        except Exception as error:
            if os.environ.get(STRICT_VARIABLE) == "1":
                raise
            return Fault.of(doing, error)

    def remember(self, fault: Fault) -> str:
        """Warn about a fault if nobody has, decide whether the site is tried again; returns the reason."""
        self.failures += 1
        if fault.kind != "memory" or self.failures >= PATIENCE:
            self.stays_dense = fault.reason
        if fault.reason not in self.told:
            self.told.add(fault.reason)
            warnings.warn(self._message(fault), FaultWarning, stacklevel=2)
        return fault.reason

    def _message(self, fault: Fault) -> str:
        until = "this call" if self.stays_dense is None else "this site"
        return (
            f"sparse attention failed at {self.site}, in {fault.doing}: {fault.error}. Dense attention has "
            f"taken over for {until}; the result is right, only slower. {ADVICE[fault.kind]} Other sites "
            "that fail alike are only counted: see summary()."
        )
