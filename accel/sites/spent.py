"""Spent: the time of a site's first dense and sparse calls, and so what sparse attention saved there."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from accel.patches.observers import recorder
from accel.sites.stopwatch import mark, seconds_between

# A median needs no more than this; later calls are counted and cost nothing.
MOST, LEAST = 32, 2
MOST_FORMS = 16
TIMED_ON = ("cpu", "cuda")
_ADDING = threading.Lock()

# A capture is a dense call that is computed in two parts, so that a residual is left.
Kind = Literal["dense", "sparse", "capture"]


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

    def settle(self) -> list[float]:
        """The samples in seconds. Waits for the device."""
        self.samples = [_seconds(sample) for sample in self.samples]
        return self.samples


@dataclass(frozen=True)
class Saving:
    """Seconds of some calls, and of as many dense calls of the same forms."""

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

    def of(self, kind: Kind) -> dict[Form, Calls]:
        """The calls of one kind."""
        return {form: calls for (form, other), calls in tuple(self._calls.items()) if other == kind}

    def __getstate__(self) -> dict[str, Any]:
        # CUDA events belong to a process.
        settled = {
            key: Calls(calls.count, [_seconds(sample) for sample in calls.samples if _is_over(sample)])
            for key, calls in tuple(self._calls.items())
        }
        return {"_calls": settled}


def saving(sites: Sequence[Spent], *kinds: Kind) -> Saving | None:
    """Over all sites, whose dense calls of a form take alike. None if no form ran both ways often enough."""
    dense: dict[Form, list[float]] = {}
    for site in sites:
        for form, calls in site.of("dense").items():
            dense.setdefault(form, []).extend(calls.settle())
    found = None
    for form, calls in (pair for site in sites for kind in kinds for pair in site.of(kind).items()):
        if min(len(dense.get(form, ())), len(calls.samples)) >= LEAST:
            own, other = statistics.median(calls.settle()), statistics.median(dense[form])
            more = Saving(own * calls.count, other * calls.count)
            found = more if found is None else found + more
    return found


def _is_over(sample: Any) -> bool:
    return isinstance(sample, float) or isinstance(sample[1], float) or sample[1].query()


def _seconds(sample: Any) -> float:
    return sample if isinstance(sample, float) else seconds_between(*sample)
