"""Playback: the forwards that every recipe leaves dense, run once and played back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor


class Playback:
    """Outputs of the first forwards of a dense run, of one model.

    The first forward always runs, since a recipe checks in it that its sites are called.

    Attributes:
        played: the forwards that the last run left out.
    """

    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self.played = 0

    @contextmanager
    def recording(self, model: Any, forwards: int) -> Iterator[None]:
        """Keep the first `forwards` outputs of the model."""
        self.outputs = []

        def forward(real: Any, *args: Any, **kwargs: Any) -> Any:
            output = real(*args, **kwargs)
            if len(self.outputs) < forwards:
                self.outputs.append(_copied(output))
            return output

        with _forward_of(model, forward):
            yield

    @contextmanager
    def playing(self, model: Any, forwards: int) -> Iterator[None]:
        """Play the kept outputs in place of the forwards 2 to `forwards`."""
        count, self.played = 0, 0

        def forward(real: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if 1 < count <= min(forwards, len(self.outputs)):
                self.played += 1
                return _copied(self.outputs[count - 1])
            return real(*args, **kwargs)

        with _forward_of(model, forward):
            yield


@contextmanager
def _forward_of(model: Any, forward: Any) -> Iterator[None]:
    own, real = vars(model).get("forward"), model.forward

    @wraps(real)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return forward(real, *args, **kwargs)

    model.forward = replaced
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own


def _copied(output: Any) -> Any:
    """Pipelines may write into what a forward returns."""
    if isinstance(output, tuple):
        return tuple(part.clone() if isinstance(part, Tensor) else part for part in output)
    return output.clone() if isinstance(output, Tensor) else output
