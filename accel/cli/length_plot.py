"""A plot of a length sweep: seconds of dense and accelerated, and their quotient, as an SVG on its own."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from accel.comparison.drawing.axis import Axis, round_axis
from accel.run.bench_language import BenchRow

WIDTH, HEIGHT = 1000, 330
TOP, BOTTOM = 60, HEIGHT - 50
GREY, BLUE, ORANGE = "#57606a", "#1f6feb", "#d97706"


@dataclass(frozen=True)
class Curve:
    """One line of a panel: a value for each length."""

    label: str
    colour: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One set of axes between the pixels `left` and `right`; lengths are on a logarithmic scale."""

    label: str
    left: float
    right: float
    tokens: tuple[int, ...]
    curves: tuple[Curve, ...]
    logarithmic: bool = False

    @property
    def x(self) -> Axis:
        powers = [math.log2(tokens) for tokens in self.tokens]
        return Axis("tokens", min(powers) - 0.25, max(powers) + 0.25, self.left, self.right, 1)

    @property
    def y(self) -> Axis:
        values = [value for curve in self.curves for value in curve.values]
        if not self.logarithmic:
            return round_axis(self.label, [0, 1.2, *values], BOTTOM, TOP)
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return Axis(self.label, low, max(high, low + 1), BOTTOM, TOP, 1)

    def at(self, value: float) -> float:
        return self.y.at(math.log10(value) if self.logarithmic else value)

    def draw(self) -> list[str]:
        return [
            *self._frame(),
            *(part for n, curve in enumerate(self.curves) for part in self._curve(n, curve)),
        ]

    def _frame(self) -> list[str]:
        parts = [f'<text x="{self.left}" y="{TOP - 14}">{self.label}</text>']
        for at, text in self.y.ticks:
            text = f"{10.0 ** float(text):g}" if self.logarithmic else text
            parts.append(f'<line x1="{self.left}" x2="{self.right}" y1="{at}" y2="{at}" stroke="#ddd"/>')
            parts.append(f'<text x="{self.left - 8}" y="{at + 4}" text-anchor="end">{text}</text>')
        if not self.logarithmic:
            one = self.y.at(1)
            parts.append(
                f'<line x1="{self.left}" x2="{self.right}" y1="{one}" y2="{one}" stroke="#666" '
                'stroke-dasharray="5 4"/>'
            )
        for tokens in self.tokens:
            at = self.x.at(math.log2(tokens))
            parts.append(f'<text x="{at}" y="{BOTTOM + 18}" text-anchor="middle">{tokens}</text>')
        middle = (self.left + self.right) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">tokens</text>')
        return parts

    def _curve(self, number: int, curve: Curve) -> list[str]:
        points = [
            (self.x.at(math.log2(tokens)), self.at(value))
            for tokens, value in zip(self.tokens, curve.values, strict=True)
        ]
        line = " ".join(f"{a},{b}" for a, b in points)
        parts = [f'<polyline points="{line}" fill="none" stroke="{curve.colour}" stroke-width="2"/>']
        parts += [f'<circle cx="{a}" cy="{b}" r="3.5" fill="{curve.colour}"/>' for a, b in points]
        parts.append(
            f'<text x="{self.right}" y="{TOP - 28 + 14 * number}" text-anchor="end" '
            f'fill="{curve.colour}">{curve.label}</text>'
        )
        return parts


def plot(title: str, rows: Sequence[BenchRow]) -> str:
    """The sweep as SVG: seconds on a logarithmic scale, and how many times faster than dense, which is 1.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not rows:
        raise ValueError("a plot needs at least one length")
    tokens = tuple(row.tokens for row in rows)
    seconds = (
        Curve("dense", GREY, tuple(row.dense.seconds for row in rows)),
        Curve("accelerated", BLUE, tuple(row.accelerated.seconds for row in rows)),
    )
    quotients = (
        Curve("whole model", BLUE, tuple(row.times_faster for row in rows)),
        Curve("attention alone", ORANGE, tuple(row.attention_times_faster for row in rows)),
    )
    panels = (
        Panel("seconds", 60, WIDTH / 2 - 30, tokens, seconds, logarithmic=True),
        Panel("times faster than dense", WIDTH / 2 + 50, WIDTH - 20, tokens, quotients),
    )
    body = "\n".join(part for panel in panels for part in panel.draw())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="60" y="20" font-weight="bold">{html.escape(title)}</text>\n{body}\n</svg>\n'
    )
