"""Playback: the forwards that every recipe leaves dense, run once and played back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

from torch import Tensor

from accel.apply.patch import Patch
from accel.tuning.trajectory import replaced


class Playback:
    """Outputs of the first forwards of a dense run, of one model.

    The first forward always runs, since a recipe checks in it that its sites are called.

    Args:
        outputs: those kept before.

    Attributes:
        played: the forwards that the last run left out.
        forwards: of the last run, those left out among them.
    """

    def __init__(self, outputs: Sequence[Any] = ()) -> None:
        self.outputs = list(outputs)
        self.played = 0
        self.forwards = 0

    def recording(self, model: Any, forwards: int) -> AbstractContextManager[None]:
        """Keep the first `forwards` outputs of the model."""
        self.outputs, self.forwards = [], 0
        real = model.forward

        @wraps(real)
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = real(*args, **kwargs)
            self.forwards += 1
            if len(self.outputs) < forwards:
                self.outputs.append(_copied(output))
            return output

        return replaced(model, "forward", forward)

    def playing(self, model: Any, forwards: int) -> AbstractContextManager[None]:
        """Play the kept outputs in place of the forwards 2 to `forwards`."""
        self.played = self.forwards = 0
        real = model.forward

        @wraps(real)
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            if 1 < self.forwards <= min(forwards, len(self.outputs)):
                self.played += 1
                return _copied(self.outputs[self.forwards - 1])
            return real(*args, **kwargs)

        return replaced(model, "forward", forward)


def work_of(patch: Patch, played: int, forwards: int) -> float:
    """Executed blocks / dense attention's, of a run of which some dense forwards were played back."""
    executed = whole = 0.0
    for one in patch.installed:
        record, work = one.attention.record, one.site.work
        calls = sum(float(each.total) for each in record.sparse.values()) + sum(record.dense.values())
        # A played-back second pass would have shared what the others did.
        calls += played - (played + 1) // 2 * bool(record.shared)
        executed, whole = executed + work * calls, whole + work * forwards
    return executed / whole


def _copied(output: Any) -> Any:
    """Pipelines may write into what a forward returns."""
    if isinstance(output, tuple):
        return tuple(part.clone() if isinstance(part, Tensor) else part for part in output)
    return output.clone() if isinstance(output, Tensor) else output
