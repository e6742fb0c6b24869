"""The page in a real browser: its script runs, both videos decode, nothing overflows a narrow window."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from accel.comparison import Comparison, Report, Run, write_report
from accel.comparison.quality import measure_quality
from accel.run.video import write_video

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=500,900", "--virtual-time-budget=4000", "--dump-dom",
]  # fmt: skip
MEASURE = """<script>addEventListener("load", () => {
  document.body.dataset.width = document.documentElement.scrollWidth;
  const videos = [...document.querySelectorAll("video")];
  document.body.dataset.decoded = videos.map((video) => video.videoWidth + "x" + video.videoHeight);
  const scrub = document.getElementById("scrub");
  scrub.value = 2;
  scrub.dispatchEvent(new Event("input"));
});</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """The page's DOM after its scripts ran."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp("page")
    path = write_report(synthetic_report(folder), folder / "report.html")
    path.write_text(path.read_text().replace("</body>", MEASURE + "</body>"))
    profile = folder / "profile"
    profile.mkdir()
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def synthetic_report(folder: Path) -> Report:
    generator = torch.Generator().manual_seed(0)
    dense = torch.linspace(0, 1, 32).view(1, 1, 32, 1).expand(6, 24, 32, 3)
    noisy = (dense + 0.05 * torch.randn(dense.shape, generator=generator)).clamp(0, 1)
    return Report(
        title="Dense against sparse",
        prompt="a gradient " * 30,
        model="nothing",
        recipe_name="none.yaml",
        recipe_text="rules: []" + " # a long line" * 20,
        dense=Run("dense", 2.0, 1.5, 1.0, write_video(dense, folder / "dense.mp4", 8)),
        accelerated=Run("accelerated", 1.2, 0.7, 0.2, write_video(noisy, folder / "sparse.mp4", 8)),
        comparisons=(Comparison("accelerated", "accelerated", measure_quality(noisy, dense), "Noise.", 0.1),),
        density_by_layer_and_step=((None, 0.3), (None, 0.2)),
        dense_reasons={"warm-up step": 2},
        sparse_calls=2,
        settings={"a setting": "x" * 200},
        command="accel compare " + "--flag value " * 20,
    )


def test_both_videos_decode_and_play_under_one_button(page):
    assert 'data-decoded="32x24,32x24"' in page
    videos = re.findall(r"<video[^>]*>", page)
    assert len(videos) == 2 and all('src="data:video/mp4;base64,' in video for video in videos)
    assert not any(re.search(r"\scontrols\b", video) for video in videos), (
        "the page's script did not take over"
    )
    assert re.search(r'<div class="player">\s*<button[^>]*id="play"', page)


def test_scrubbing_moves_the_frame_and_the_cursor_of_the_curves(page):
    assert re.search(r"<output[^>]*>frame 3 of 6</output>", page)
    cursors = re.findall(r'<line class="cursor"[^>]*x1="([\d.]+)"', page)
    assert len(cursors) == 2
    assert all(float(x) == pytest.approx(66 + 2 / 5 * (466 - 66)) for x in cursors)


def test_the_difference_of_the_videos_is_drawn(page):
    assert re.search(r'<figure class="difference">\s*<canvas[^>]*width="32" height="24"', page)


def test_every_chart_is_there(page):
    for chart in ("curves", "ruler", "times", "densities"):
        assert f'class="chart {chart}"' in page
    assert page.count('class="chart curves"') == 2


def test_nothing_is_wider_than_a_narrow_window(page):
    assert int(re.search(r'data-width="(\d+)"', page)[1]) <= 500


def test_no_external_address_is_referenced(page):
    without_media = re.sub(r'"data:[^"]*"', "", page)
    assert not re.search(r"https?://|src=\"//|@import", without_media)
