"""Charts as coordinates: what the SVG templates draw, in a box 480 wide that a phone can still read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from accel.comparison.anchors import Anchor
from accel.comparison.curve import Tried
from accel.comparison.drawing.axis import Axis, counting_axis, round_axis
from accel.comparison.drawing.digits import similarity, small
from accel.comparison.report import Comparison, Run

WIDTH = 480
LEFT, RIGHT = 66, WIDTH - 14


@dataclass(frozen=True)
class Curve:
    """One quantity over frames; frames at infinity are gaps. Each line is an SVG list of points."""

    role: str
    label: str
    lines: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CurveChart:
    """Curves over frame numbers, counted from 1."""

    title: str
    x: Axis
    y: Axis
    curves: tuple[Curve, ...]
    hidden: int
    height: int = 250


@dataclass(frozen=True)
class Mark:
    """One number on a ruler.

    Args:
        role: "accelerated"; "here" for what was measured with this model, "demo" with the embedded demo.
    """

    role: str
    label: str
    value: str
    at: float
    y: float


@dataclass(frozen=True)
class Ruler:
    """A number of the accelerated video among those of changes that people know, closest to dense first."""

    title: str
    x: Axis
    marks: tuple[Mark, ...]
    height: int


@dataclass(frozen=True)
class Part:
    """A piece of a time bar."""

    name: str
    seconds: float
    x: float
    width: float


@dataclass(frozen=True)
class Bar:
    """The seconds of one run, cut into parts."""

    label: str
    seconds: float
    y: float
    end: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class TimeBars:
    """One bar a run over one axis of seconds."""

    x: Axis
    bars: tuple[Bar, ...]
    height: int = 190


@dataclass(frozen=True)
class Tradeoff:
    """Dots of what tuning tried: x, y, "tried", "chosen" or "accelerated", which is this run, and a label."""

    x: Axis
    y: Axis
    dots: tuple[tuple[float, float, str, str], ...]
    height: int = 250


def curve_chart(
    title: str, unit: str, series: Sequence[tuple[Comparison, Sequence[float]]]
) -> CurveChart | None:
    """Curves of one number a frame; None for fewer than two frames or if no number is finite."""
    finite = [value for _, values in series for value in values if math.isfinite(value)]
    frames = len(series[0][1]) if series else 0
    if frames < 2 or not finite:
        return None
    x = counting_axis("frame", 1, frames, LEFT, RIGHT)
    y = round_axis(unit, finite, 200, 14)
    curves = tuple(_curve(comparison, values, x, y) for comparison, values in series)
    return CurveChart(title, x, y, curves, sum(len(values) for _, values in series) - len(finite))


def ssim_ruler(accelerated: Comparison | None, anchors: Sequence[Anchor]) -> Ruler | None:
    """SSIM of the accelerated video and of the anchors, up to 1; None without a comparison."""
    if accelerated is None:
        return None
    values = [("accelerated", "accelerated", accelerated.quality.ssim)]
    values += [_of_anchor(anchor, anchor.ssim) for anchor in anchors]
    return _ruler("SSIM against dense: right is closer", values, similarity, end=1.0, highest_first=True)


def error_ruler(accelerated: Comparison | None, anchors: Sequence[Anchor]) -> Ruler | None:
    """The same of the latent error, from 0; None where it was not measured."""
    error = None if accelerated is None else accelerated.latent_relative_error
    if error is None:
        return None
    values = [("accelerated", "accelerated", error)]
    values += [_of_anchor(each, each.latent_error) for each in anchors if each.latent_error is not None]
    return _ruler("Latent error: left is closer", values, small, end=0.0)


def _of_anchor(anchor: Anchor, value: float) -> tuple[str, str, float]:
    return ("demo" if anchor.of_demo else "here"), anchor.name, value


def _ruler(
    title: str,
    values: Sequence[tuple[str, str, float]],
    digits: Callable[[float], str],
    end: float,
    highest_first: bool = False,
) -> Ruler:
    x = round_axis(title, [end, *(value for _, _, value in values)], 14, WIDTH - 84)
    ordered = sorted(values, key=lambda each: each[2], reverse=highest_first)
    marks = tuple(
        Mark(role, label, digits(value), x.at(value), 30 + 38 * row)
        for row, (role, label, value) in enumerate(ordered)
    )
    return Ruler(title, x, marks, 38 * len(marks) + 58)


def tradeoff_chart(
    tried: Sequence[Tried], speedup: float | None = None, error: float | None = None
) -> Tradeoff | None:
    """What is lost over speed-up of what tuning tried, and of this run: the latent error, or 1 - SSIM where
    latents were not shown. None without any."""
    by_latents = all(each.latent_error is not None for each in tried)
    here = [(speedup, error)] if by_latents and speedup is not None and error is not None else []
    if not tried:
        return None
    lost = [(each.latent_error if by_latents else 1 - (each.ssim or 0.0)) or 0.0 for each in tried]
    pairs = [*zip((each.speedup for each in tried), lost, strict=True), *here]
    x = round_axis("times faster than dense (transformer)", [1.0, *(fast for fast, _ in pairs)], LEFT, RIGHT)
    y = round_axis("latent error" if by_latents else "1 - SSIM", [0.0, *(loss for _, loss in pairs)], 200, 14)
    kinds = [("chosen" if each.chosen else "tried", str(each)) for each in tried]
    kinds += [("accelerated", "this run")] * len(here)
    return Tradeoff(x, y, tuple((x.at(a), y.at(b), *kind) for (a, b), kind in zip(pairs, kinds, strict=True)))


def time_bars(runs: Sequence[Run]) -> TimeBars:
    """Seconds of each run, cut into attention, the rest of the transformer and the rest of the pipeline.

    A cut that is not known for every run is made in no run.
    """
    known = [
        part
        for part in ("attention", "transformer")
        if all(getattr(run, f"seconds_{part}") is not None for run in runs)
    ]
    x = round_axis("seconds", [0, *(run.seconds_total for run in runs)], 14, WIDTH - 76, most=5)
    return TimeBars(x, tuple(_bar(run, known, x, 30 + 62 * row) for row, run in enumerate(runs)))


def _curve(comparison: Comparison, values: Sequence[float], x: Axis, y: Axis) -> Curve:
    runs = list(_finite_runs(values))
    lines = tuple(
        " ".join(f"{x.at(frame)},{y.at(value)}" for frame, value in run) for run in runs if len(run) > 1
    )
    dots = tuple((x.at(run[0][0]), y.at(run[0][1])) for run in runs if len(run) == 1)
    return Curve(comparison.role, comparison.label, lines, dots)


def _finite_runs(values: Sequence[float]) -> Iterator[list[tuple[int, float]]]:
    """Stretches of neighbouring frames whose values are finite, as (frame from 1, value)."""
    run: list[tuple[int, float]] = []
    for frame, value in enumerate([*values, math.inf], start=1):
        if math.isfinite(value):
            run.append((frame, value))
        elif run:
            yield run
            run = []


def _bar(run: Run, known: Sequence[str], x: Axis, y: float) -> Bar:
    parts: list[Part] = []
    before = 0.0
    for part in (*known, "total"):
        until = getattr(run, f"seconds_{part}")
        whole = "pipeline" if part == "total" else part
        name = f"rest of the {whole}" if parts else part
        parts.append(Part(name, until - before, x.at(before), round(x.at(until) - x.at(before), 2)))
        before = until
    return Bar(run.label, run.seconds_total, y, x.at(run.seconds_total), tuple(parts))
