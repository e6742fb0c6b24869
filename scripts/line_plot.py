"""Line plots as SVG, drawn without any plotting library: panels side by side, one legend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP, LEGEND = 330, 300, 60, 40, 60, 190
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5539", "#666666", "#000000")
Point = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """One plot.

    Args:
        lines: points (x, y) by name, y above 0; a line of one point is drawn as a mark.
    """

    title: str
    lines: dict[str, list[Point]]


def line_plot(panels: list[Panel], x_label: str, y_label: str, dashed: tuple[str, ...] = ()) -> str:
    """SVG text. The y axis is logarithmic and the same in all panels; names in `dashed` are drawn so."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    points = [point for panel in panels for line in panel.lines.values() for point in line]
    x_range = (min(x for x, _ in points), max(x for x, _ in points))
    y_range = (min(y for _, y in points) * 0.9, max(y for _, y in points) * 1.1)
    parts = []
    for number, panel in enumerate(panels):
        frame = Frame(LEFT + number * (WIDTH + GAP), x_range, y_range)
        parts += frame.axes(panel.title, x_label, y_label if number == 0 else "")
        for name, line in panel.lines.items():
            parts.append(frame.line(line, *_style(names.index(name), name in dashed)))
    right = LEFT + len(panels) * (WIDTH + GAP) - GAP + 15
    for row, name in enumerate(names):
        colour, dash = _style(row, name in dashed)
        y = TOP + 12 + 18 * row
        parts.append(
            f'<path d="M{right} {y - 4}h24" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        parts.append(f'<text x="{right + 30}" y="{y}">{escape(name)}</text>')
    size = f"{right + LEGEND} {TOP + HEIGHT + 50}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{size.split()[0]}" '
        'font-family="sans-serif" font-size="12" fill="#222"><rect width="100%" height="100%" fill="white"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def _style(index: int, dashed: bool) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], "5 3" if dashed else "none"


@dataclass(frozen=True)
class Frame:
    """Where one panel's axes lie."""

    left: float
    x_range: Point
    y_range: Point

    def place(self, point: Point) -> Point:
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        across = (point[0] - x0) / (x1 - x0)
        up = math.log(point[1] / y0) / math.log(y1 / y0)
        return self.left + across * WIDTH, TOP + HEIGHT * (1 - up)

    def line(self, points: list[Point], colour: str, dash: str) -> str:
        places = [self.place(point) for point in sorted(points)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
        return (
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
            + marks
        )

    def axes(self, title: str, x_label: str, y_label: str) -> list[str]:
        parts = [
            f'<rect x="{self.left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
            f'<text x="{self.left}" y="{TOP - 12}" font-size="13" font-weight="bold">{escape(title)}</text>',
        ]
        middle = self.left + WIDTH / 2
        parts.append(
            f'<text x="{middle}" y="{TOP + HEIGHT + 38}" text-anchor="middle">{escape(x_label)}</text>'
        )
        for tenth in range(
            math.ceil(self.x_range[0] * 10 - 1e-9), math.floor(self.x_range[1] * 10 + 1e-9) + 1
        ):
            x = self.place((tenth / 10, self.y_range[0]))[0]
            parts.append(
                f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{tenth / 10:g}</text>'
            )
        for value in _ticks(*self.y_range):
            y = self.place((self.x_range[0], value))[1]
            parts.append(f'<path d="M{self.left} {y:.1f}h{WIDTH}" stroke="#e4e4e4"/>')
            parts.append(f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        if y_label:
            turned = f'transform="translate({self.left - 44} {TOP + HEIGHT / 2}) rotate(-90)"'
            parts.append(f'<text {turned} text-anchor="middle">{escape(y_label)}</text>')
        return parts


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in between."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
