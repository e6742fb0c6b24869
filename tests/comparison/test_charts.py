"""The parts of the comparison page: digits, axes, curves, the ruler, time bars and the density map."""

from __future__ import annotations

import math

import pytest

from accel.comparison import Comparison, Run
from accel.comparison.anchors import Anchor
from accel.comparison.drawing import digits as text
from accel.comparison.drawing.axis import Axis, counting_axis, round_axis
from accel.comparison.drawing.charts import curve_chart, error_ruler, ssim_ruler, time_bars
from accel.comparison.drawing.density_map import density_map
from accel.comparison.quality import Quality

DENSE = Run("dense", 25.0, 16.0, 12.0)
ACCELERATED = Run("accelerated", 15.0, 8.0, 3.0)


def comparison(role: str, *psnr: float) -> Comparison:
    return Comparison(role, role, Quality(psnr, (0.9,) * len(psnr), psnr[0]))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.seconds(0.0123), "12 ms"),
        (text.seconds(1.234), "1.23 s"),
        (text.seconds(12.34), "12.3 s"),
        (text.seconds(1234.5), "1,234 s"),
        (text.seconds(None), "not measured"),
        (text.ratio(2.1), "2.10×"),  # noqa: RUF001
        (text.ratio(12.34), "12.3×"),  # noqa: RUF001
        (text.decibels(32.44), "32.4 dB"),
        (text.decibels(math.inf), "identical"),
        (text.similarity(0.99999), "> 0.9999"),
        (text.similarity(1.0), "1"),
        (text.density(0.0834), "0.083"),
        (text.small(0.012345), "0.0123"),
        (text.small(3.14e-6), "3.1e-06"),
        (text.signed(-0.002), "−0.002"),  # noqa: RUF001
        (text.signed(0.0), "0"),
    ],
    ids=str,
)
def test_digits(shown, expected):
    assert shown == expected


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0, 25.04], 0, 30),
        ([0.87, 0.9999], 0.85, 1),
        ([1, 1], 0, 1),
        ([30.2, 70.9], 30, 80),
        ([31e-5, 88e-5], 3e-4, 9e-4),
    ],
    ids=str,
)
def test_round_axis_holds_all_values_between_round_numbers(values, low, high):
    axis = round_axis("x", values, 0, 100)
    assert (axis.low, axis.high) == pytest.approx((low, high))
    assert 3 <= len(axis.ticks) <= 8
    assert all(axis.at(float(label)) == pytest.approx(at, abs=0.02) for at, label in axis.ticks)


def test_axes_refuse_an_empty_span_and_count_in_whole_numbers():
    with pytest.raises(ValueError, match="low < high"):
        Axis("x", 1, 1, 0, 100, 1)
    assert all(label.isdigit() for _, label in counting_axis("frame", 1, 2, 0, 100).ticks)
    assert [label for _, label in counting_axis("frame", 1, 33, 0, 100).ticks][:2] == ["5", "10"]


def test_curves_have_gaps_where_frames_are_identical():
    mixed = comparison("accelerated", 30.0, 31.0, math.inf, 40.0, math.inf)
    chart = curve_chart("PSNR", "dB", [(mixed, mixed.quality.per_frame_psnr)])
    (curve,) = chart.curves
    assert len(curve.lines) == 1 and len(curve.dots) == 1 and chart.hidden == 2
    assert curve.lines[0].count(",") == 2
    assert curve_chart("PSNR", "dB", [(mixed, (math.inf,) * 5)]) is None
    assert curve_chart("PSNR", "dB", [(mixed, (30.0,))]) is None
    assert curve_chart("PSNR", "dB", []) is None


ANCHORS = (Anchor("fp8", 0.97, 0.1, of_demo=True), Anchor("an mp4", 0.85), Anchor("another seed", 0.5, 0.9))


def test_the_rulers_put_the_closest_first_and_mark_what_is_of_the_demo():
    found = Comparison("accelerated", "accelerated", Quality((30.0,), (0.9,), 30.0), "", 0.2)
    by_ssim, by_error = (make(found, ANCHORS) for make in (ssim_ruler, error_ruler))
    assert [mark.role for mark in by_ssim.marks] == ["demo", "accelerated", "here", "here"]
    assert [mark.label for mark in by_error.marks] == ["fp8", "accelerated", "another seed"]
    assert by_ssim.marks[0].at > by_ssim.marks[-1].at and by_error.marks[0].at < by_error.marks[-1].at
    assert by_ssim.x.high == 1 and by_error.x.low == 0
    assert ssim_ruler(None, ANCHORS) is error_ruler(comparison("accelerated", 30.0), ANCHORS) is None


def test_time_bars_add_up():
    for bar in time_bars((DENSE, ACCELERATED)).bars:
        names = [part.name for part in bar.parts]
        assert names == ["attention", "rest of the transformer", "rest of the pipeline"]
        assert sum(part.seconds for part in bar.parts) == pytest.approx(bar.seconds)
        assert bar.parts[-1].x + bar.parts[-1].width == pytest.approx(bar.end, abs=0.02)


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (Run("other", 15.0, 8.0), ["transformer", "rest of the pipeline"]),
        (Run("other", 15.0, None, 3.0), ["attention", "rest of the pipeline"]),
        (Run("other", 15.0), ["total"]),
    ],
    ids=["no-attention", "no-transformer", "total-only"],
)
def test_time_bars_are_cut_alike(other, names):
    assert [[part.name for part in bar.parts] for bar in time_bars((DENSE, other)).bars] == [names, names]


def test_density_map_tells_dense_sparse_and_uncalled_apart():
    chart = density_map([(None, 0.25, 0.35), (None, 0.5, math.nan)], ("first", "second"))
    assert [cell.kind for cell in chart.cells] == ["dense", "sparse", "sparse", "dense", "sparse", "no call"]
    shades = [cell.shade for cell in chart.cells if cell.kind == "sparse"]
    assert shades == sorted(set(shades))
    assert [cell.says for cell in chart.cells][3:5] == [
        "second, step 1: dense",
        "second, step 2: density 0.500",
    ]
    assert [label for _, label in chart.steps] == ["1", "2", "3"]
    assert [label for _, label in chart.layers] == ["0", "1"]
    assert chart.cells[-1].x + chart.cell_width == pytest.approx(chart.right, abs=0.1)


def test_density_map_of_a_large_model_labels_few_rows():
    chart = density_map([[None] * 50] * 40)
    assert {cell.kind for cell in chart.cells} == {"dense"} and len(chart.cells) == 2000
    assert len(chart.steps) <= 11 and len(chart.layers) <= 13
    assert density_map(()) is None
