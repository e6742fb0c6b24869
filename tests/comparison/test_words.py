"""What the page says of its numbers: fast or slow and why, how close, what flickers, what to change."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from accel.comparison import Comparison, Report, Run, render_report
from accel.comparison.anchors import DEMO, Anchor, completed
from accel.comparison.curve import Tried, curve_of, write_curve
from accel.comparison.pays import AttentionTime
from accel.comparison.quality import Quality
from accel.comparison.words import advice, latent_error, verdict

ANCHORS = (
    Anchor("weights in fp8", 0.97, 0.1, of_demo=True),
    Anchor("an mp4 of default quality", 0.94),
    Anchor("another seed", 0.5, 0.9),
)
ROWS = Path(__file__).parents[2] / "docs" / "benchmarks" / "anchors.jsonl"


def report(
    ssim: float = 0.95, seconds: float = 15.0, flicker: float = 0.02, recipe: str = "", **more
) -> Report:
    quality = Quality((30.0,) * 2, (ssim,) * 2, 30.0, flicker, 0.02)
    return Report(
        "t", "p", "m", "r", recipe,
        Run("dense", 25.0, 16.0, 12.0), Run("accelerated", seconds, 8.0, 3.0),
        (Comparison("accelerated", "a", quality, "", 0.2),), anchors=ANCHORS, **more,
    )  # fmt: skip


def test_a_number_is_placed_between_things_that_people_know():
    fast, close, error, flickers = verdict(report())
    assert fast == "1.67× as fast end to end: 25.0 s became 15.0 s, attention 4.00×."  # noqa: RUF001
    assert close == (
        "It is closer to the dense video than an mp4 of default quality: SSIM 0.9500 against 0.9400, "
        "but not as close as weights in fp8 (0.9700 on the demo)."
    )
    assert error == (
        "Latent error 0.2: smaller than with another seed (0.9), "
        "larger than with weights in fp8 (0.1 on the demo)."
    )
    assert flickers == "It flickers as the dense video does (within 2%)."


@pytest.mark.parametrize(
    "ssim, said",
    [
        (
            0.99,
            "It is closer to the dense video than weights in fp8: SSIM 0.9900 against 0.9700 on the demo.",
        ),
        (0.3, "It is not as close to the dense video as another seed: SSIM 0.3000 against 0.5000."),
    ],
)
def test_beyond_all_anchors_only_one_side_is_named(ssim, said):
    assert verdict(report(ssim))[1] == said


def test_another_exact_backend_is_closer_than_anything_and_says_nothing():
    exact = replace(report(0.99), anchors=(*ANCHORS, Anchor("another exact backend", 1.0, 0.0)))
    assert verdict(exact) == verdict(report(0.99))
    assert "Latent error 0.2: smaller than with another exact backend" in latent_error(
        replace(exact, anchors=(Anchor("another exact backend", 0.9, 0.3),))
    )


def test_an_image_is_called_one():
    still = Comparison("accelerated", "a", Quality((30.0,), (0.95,), 30.0))
    assert "closer to the dense image than" in verdict(replace(report(), comparisons=(still,)))[1]


@pytest.mark.parametrize("flicker, said", [(0.03, "50% more"), (0.01, "50% less")])
def test_flicker_is_said_as_a_share(flicker, said):
    assert f"It flickers {said} than the dense video." in verdict(report(flicker=flicker))


def test_a_slower_run_says_why_and_from_what_size_it_pays():
    slow = report(seconds=30.0, attention_time=AttentionTime(1000, 0.5, sparse=4.0, dense=2.0))
    said = verdict(slow)
    assert said[0].startswith("Slower than dense: 25.0 s became 30.0 s")
    assert any("gained 9.00 s; the rest" in each for each in said)
    assert any("1,000 tokens takes longer than a dense one" in each for each in said)
    # 1 s of the blocks that are kept, 3 s of everything else; 1 s would have to be spared three times.
    assert "By this run's times, attention is faster from about 3,000 tokens on." in said
    page = render_report(slow)
    assert page.index("about 3,000 tokens") < page.index('class="tiles"'), "not on the first screen"


def test_a_gain_that_is_not_attentions_is_called_chance():
    lucky = replace(report(), accelerated=Run("accelerated", 20.0, 17.0, 13.0))
    assert "Attention itself was slower, so this is chance" in verdict(lucky)[0]


def test_at_full_density_nothing_pays():
    assert AttentionTime(1000, 1.0, 4.0, 2.0).pays_from is None
    said = verdict(report(seconds=30.0, attention_time=AttentionTime(1000, 1.0, 4.0, 2.0)))
    assert "At this density it does not pay off at any length." in said


@pytest.mark.parametrize(
    "ssim, recipe, said",
    [
        (0.95, "select: {mass: 0.9}", "--set mass=0.95"),
        (
            0.8,
            "select: {density: 0.4}",
            "Much differs: keep more steps dense (`--set dense_steps=0.4`), keep more",
        ),
        (0.99, "", "quality to spare"),
    ],
)
def test_what_to_change_fits_the_recipe(ssim, recipe, said):
    (sentence,) = advice(report(ssim, recipe=recipe))
    assert said in sentence
    assert "<code>" in render_report(report(ssim, recipe=recipe))


def test_what_was_measured_here_takes_the_place_of_what_the_demo_shows():
    anchors = completed([Anchor("weights in fp8", 0.5, 0.5)])
    assert [each.of_demo for each in anchors if each.name == "weights in fp8"] == [False]
    assert len(anchors) == len(DEMO) and [each.ssim for each in anchors] == sorted(
        (each.ssim for each in anchors), reverse=True
    )
    page = render_report(replace(report(), anchors=anchors))
    assert "measured earlier, on the embedded demo" in page


def test_the_demos_anchors_are_those_that_were_measured():
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    for anchor in DEMO:
        mine = [row for row in rows if row.get("arm") == anchor.name]
        assert anchor.ssim == pytest.approx(statistics.fmean(row["ssim"] for row in mine), abs=5e-4)
        errors = statistics.fmean(row["latent_error"] for row in mine)
        assert anchor.latent_error == pytest.approx(errors, rel=5e-3)


def test_the_curve_of_tuning_is_found_beside_its_recipe(tmp_path):
    points = [Tried(0.3, 1.5, 0.2, 0.9), Tried(0.5, 1.2, 0.1, 0.95, chosen=True)]
    write_curve(points, tmp_path)
    assert curve_of(str(tmp_path / "tuned.yaml")) == tuple(points)
    assert curve_of("demo") == curve_of(str(tmp_path / "sub" / "tuned.yaml")) == ()
    (tmp_path / "curve.json").write_text('[{"speed": 1}]')
    assert curve_of(str(tmp_path / "tuned.yaml")) == ()
    page = render_report(report(curve=tuple(points)))
    assert page.count('class="dot tried"') == page.count('class="dot chosen"') == 1
    assert page.count('class="dot accelerated"') == 1 and "accel tune</code> tried" in page
    page = render_report(report(curve=(Tried(0.3, 1.5, None, 0.9),)))
    assert page.count('class="dot') == page.count('class="dot tried"') == 1 and "1 - SSIM" in page


@pytest.mark.parametrize("total", [15.0, 30.0])
def test_no_speed_is_claimed_where_nothing_ran_sparse(total):
    dense = replace(report(0.95), sparse_calls=0, dense_reasons={"first steps": 14, "dense layer": 2})
    dense = replace(dense, accelerated=replace(dense.accelerated, seconds_total=total))
    said = "No attention call ran sparse (first steps, dense layer), so the times differ by chance: 25.0 s"
    assert verdict(dense)[0].startswith(said) and "faster" not in " ".join(verdict(dense))
