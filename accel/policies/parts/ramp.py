"""Ramp: a share that changes over the denoising schedule, linear between points."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, TypeVar

from pydantic import Field

from accel.noun import noun

Point = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
T = TypeVar("T")


@noun
class Ramp:
    """In a recipe: `density: {ramp: [[0, 0.5], [1, 0.2]]}`.

    Args:
        ramp: (progress, value) points, progress rising; the first value holds before them, the last after.

    Raises:
        ValueError: if progress does not rise.
    """

    ramp: Annotated[tuple[Point, ...], Field(min_length=2)]

    def __post_init__(self) -> None:
        if any(later[0] <= earlier[0] for earlier, later in pairwise(self.ramp)):
            raise ValueError(f"progress must rise from point to point, got {self.ramp}")

    def at(self, progress: float) -> float:
        """The value at a share of the schedule already done, in [0, 1]."""
        for (start, low), (end, high) in pairwise(self.ramp):
            if progress <= end:
                share = min(max((progress - start) / (end - start), 0.0), 1.0)
                return low + share * (high - low)
        return self.ramp[-1][1]

    @property
    def lowest(self) -> float:
        return min(value for _, value in self.ramp)


def fixed(value: float | Ramp) -> float:
    """A share that must be a number by now.

    Raises:
        ValueError: if it is still a ramp; `at_progress` resolves those.
    """
    if isinstance(value, Ramp):
        raise ValueError(f"the value changes with progress, resolve it first: got {value}")
    return value


@lru_cache(maxsize=1024)
def at_progress(settings: T, progress: float) -> T:
    """A frozen dataclass with every ramp in it, however deep, replaced by its value at `progress`."""
    if not is_dataclass(settings):
        return settings
    changed: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Ramp):
            changed[field.name] = value.at(progress)
        elif (resolved := at_progress(value, progress)) != value:
            changed[field.name] = resolved
    return replace(settings, **changed) if changed else settings  # type: ignore[type-var]
