"""Axis: places values between two pixels, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Values from `low` at pixel `start` to `high` at pixel `end`, linearly.

    Args:
        label: what is counted, with its unit.
        step: distance of two ticks, in values.
    """

    label: str
    low: float
    high: float
    start: float
    end: float
    step: float

    def __post_init__(self) -> None:
        if not self.low < self.high or not self.step > 0:
            raise ValueError(f"an axis needs low < high and a step, got {self.low}, {self.high}, {self.step}")

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """(pixel, text) of every multiple of `step` on the axis."""
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if not math.isclose(round(self.step, decimals), self.step):
            decimals += 1
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        values = [index * self.step for index in range(first, last + 1)]
        return tuple((self.at(value), f"{value:.{decimals}f}") for value in values)


@dataclass(frozen=True)
class LogAxis(Axis):
    """The same for the logarithms of values: `low`, `high` and `step` are powers of `base`."""

    base: int = 10

    def at(self, value: float) -> float:
        return super().at(math.log(value, self.base))

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        powers = (self.base ** float(power) for power in range(int(self.low), int(self.high) + 1))
        return tuple((self.at(value), f"{value:.12g}") for value in powers)


def log_axis(label: str, values: Iterable[float], start: float, end: float, base: int) -> LogAxis:
    """The axis from the power of `base` below all values to the one above them."""
    powers = [math.log(value, base) for value in values]
    low, high = math.floor(min(powers)), math.ceil(max(powers))
    return LogAxis(label, low, max(high, low + 1), start, end, 1, base)


def round_step(span: float, most: int = 6) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that cuts `span` into at most `most` pieces."""
    if not span > 0:
        raise ValueError(f"a span is above 0, got {span}")
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= most + 1e-9)


def round_axis(label: str, values: Iterable[float], start: float, end: float, *, most: int = 6) -> Axis:
    """The axis from the round number below all values to the round number above them.

    Values that are all equal lie at or near the top of an axis about 1 long: SSIM has nothing above 1.
    """
    values = list(values)
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low = high - 1
    step = round_step(high - low, most)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Axis(label, low, high, start, end, step)


def counting_axis(label: str, low: int, high: int, start: float, end: float, *, most: int = 8) -> Axis:
    """An axis of whole numbers, `low` and `high` themselves at its ends."""
    step = max(1.0, round_step(max(high - low, 1), most))
    return Axis(label, low, max(high, low + 1), start, end, math.ceil(step))
