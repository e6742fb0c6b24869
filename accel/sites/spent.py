"""Spent: what a site's first dense and sparse calls took, and so what sparse attention saved there."""

from __future__ import annotations

import statistics
import threading
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from accel.patches.observers import recorder
from accel.sites.stopwatch import mark, seconds_between

# A median needs no more of them; later calls are counted and cost nothing.
MOST, LEAST = 32, 2
MOST_FORMS = 16
TIMED_ON = ("cpu", "cuda")
_ADDING = threading.Lock()

Kind = Literal["dense", "sparse"]


class Form(NamedTuple):
    """What queries look like, their head dimension last."""

    shape: torch.Size
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, q: Tensor) -> Form:
        return cls(q.shape, q.device, q.dtype)


@dataclass
class Calls:
    """Calls of one kind and form: how many, and what the first took: seconds, or a pair of CUDA events."""

    count: int = 0
    samples: list[Any] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Waits for the device."""
        self.samples = [_seconds(sample) for sample in self.samples]
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Saving:
    """Seconds of sparse calls, and those that as many dense calls of their forms take."""

    sparse: float
    dense: float

    def __add__(self, other: Saving) -> Saving:
        return Saving(self.sparse + other.sparse, self.dense + other.dense)


class Spent:
    """Times calls by the form of their queries. A copy or a pickle carries what its device has finished."""

    def __init__(self) -> None:
        self._calls: dict[tuple[Form, Kind], Calls] = {}

    def start(self, q: Tensor, kind: Kind) -> Any:
        """The time before a call; None where it is not timed."""
        calls = self._calls.get((Form.of(q), kind))
        enough = calls is not None and len(calls.samples) >= MOST
        return None if enough or q.device.type not in TIMED_ON or recorder() else mark(q.device)

    def stop(self, q: Tensor, kind: Kind, began: Any) -> None:
        """Count a call, and its time since `began` if it is timed."""
        samples = [] if began is None else [(began, mark(q.device))]
        key = Form.of(q), kind
        with _ADDING:
            if key in self._calls or len(self._calls) < MOST_FORMS:
                calls = self._calls.setdefault(key, Calls())
                calls.count += 1
                calls.samples += samples

    def forms(self, kind: Kind) -> tuple[Form, ...]:
        """Of the calls of one kind."""
        return tuple(form for form, other in tuple(self._calls) if other == kind)

    def saving(self) -> Saving | None:
        """Over the forms that ran both ways more than once; None without any."""
        found = None
        for form in self.forms("sparse"):
            sparse, dense = self._calls[form, "sparse"], self._calls.get((form, "dense"))
            if dense and min(len(dense.samples), len(sparse.samples)) >= LEAST:
                saving = Saving(sparse.median * sparse.count, dense.median * sparse.count)
                found = saving if found is None else found + saving
        return found

    def __getstate__(self) -> dict[str, Any]:
        # CUDA events belong to a process.
        settled = {
            key: Calls(calls.count, [_seconds(sample) for sample in calls.samples if _is_over(sample)])
            for key, calls in tuple(self._calls.items())
        }
        return {"_calls": settled}


def _is_over(sample: Any) -> bool:
    return isinstance(sample, float) or isinstance(sample[1], float) or sample[1].query()


def _seconds(sample: Any) -> float:
    return sample if isinstance(sample, float) else seconds_between(*sample)
