"""A plot of a length sweep: seconds of dense and accelerated, and their quotient, as an SVG on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from accel.comparison.drawing.axis import Axis, log_axis, round_axis
from accel.comparison.drawing.charts import LEFT, RIGHT, Curve, CurveChart
from accel.comparison.render import rendered
from accel.run.bench_language import BenchRow

BOTTOM, TOP = 200, 14


def plot(title: str, rows: Sequence[BenchRow]) -> str:
    """The sweep as SVG: seconds on a logarithmic scale, and how many times faster than dense, which is 1.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not rows:
        raise ValueError("a plot needs at least one length")
    tokens = [row.tokens for row in rows]
    seconds = {"dense": [row.dense.seconds for row in rows]}
    seconds |= {"accelerated": [row.accelerated.seconds for row in rows]}
    faster = {"whole model": [row.times_faster for row in rows]}
    faster |= {"attention alone": [row.attention_times_faster for row in rows]}
    ratios = [value for value in chain(*faster.values()) if value is not None]
    charts = (
        _chart(tokens, seconds, log_axis("seconds", chain(*seconds.values()), BOTTOM, TOP, 10)),
        _chart(tokens, faster, round_axis("times faster", [0, 1.2, *ratios], BOTTOM, TOP)),
    )
    return rendered(Path(__file__).with_name("lengths.svg.j2"), title=title, charts=charts)


def _chart(tokens: Sequence[int], curves: Mapping[str, Sequence[float | None]], y: Axis) -> CurveChart:
    x = log_axis("tokens", tokens, LEFT, RIGHT, 2)
    places = {
        label: tuple(
            (x.at(length), y.at(value)) for length, value in zip(tokens, values, strict=True) if value
        )
        for label, values in curves.items()
    }
    drawn = (
        Curve(label, label, (" ".join(f"{a},{b}" for a, b in points),), points)
        for label, points in places.items()
        if points
    )
    return CurveChart(y.label, x, y, tuple(drawn), 0)
