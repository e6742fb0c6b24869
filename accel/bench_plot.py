"""A plot of a length sweep: how many times faster than dense, as an SVG that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

from accel.bench import BenchRow
from accel.report.axis import Axis, round_axis

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 60, WIDTH - 20, 40, HEIGHT - 50
CURVES = (
    ("whole model", "#1f6feb", "times_faster"),
    ("attention alone", "#d97706", "attention_times_faster"),
)


def plot(title: str, rows: Sequence[BenchRow]) -> str:
    """The sweep as SVG; 1 is dense's own speed.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not rows:
        raise ValueError("a plot needs at least one length")
    values = [getattr(row, name) for row in rows for _, _, name in CURVES]
    powers = [math.log2(row.tokens) for row in rows]
    x = Axis("tokens", min(powers) - 0.25, max(powers) + 0.25, LEFT, RIGHT, 1)
    y = round_axis("times faster than dense", [0, 1.2, *values], BOTTOM, TOP)
    parts = [*_frame(title, rows, x, y), *_curves(rows, x, y)]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _frame(title: str, rows: Sequence[BenchRow], x: Axis, y: Axis) -> list[str]:
    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{title}</text>']
    for at, text in y.ticks:
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{text}</text>')
    one = y.at(1)
    parts.append(
        f'<line x1="{LEFT}" x2="{RIGHT}" y1="{one}" y2="{one}" stroke="#666" stroke-dasharray="5 4"/>'
    )
    for row in rows:
        at = x.at(math.log2(row.tokens))
        parts.append(f'<text x="{at}" y="{BOTTOM + 18}" text-anchor="middle">{row.tokens}</text>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{x.label}</text>')
    return parts


def _curves(rows: Sequence[BenchRow], x: Axis, y: Axis) -> list[str]:
    parts = []
    for number, (label, colour, name) in enumerate(CURVES):
        points = [(x.at(math.log2(row.tokens)), y.at(getattr(row, name))) for row in rows]
        line = " ".join(f"{a},{b}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a}" cy="{b}" r="3.5" fill="{colour}"/>' for a, b in points]
        parts.append(f'<text x="{RIGHT - 110}" y="{20 + 14 * number}" fill="{colour}">{label}</text>')
    return parts
