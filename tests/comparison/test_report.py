"""The comparison page: every part, what it says of missing pieces, and that it needs no network."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from accel.comparison import Comparison, Report, Run, render_report, report_as_dict, write_report
from accel.comparison.quality import Quality

VOID = {"meta", "img", "input", "br", "link"}


def quality(psnr: float = 30.0, frames: int = 4) -> Quality:
    curve = tuple(psnr - frame / 10 for frame in range(frames))
    return Quality(curve, tuple(0.9 for _ in curve), psnr - 0.5, 0.02, 0.018)


def other_seed_of_three_frames() -> Comparison:
    return Comparison("other seed", "seed 1", quality(9.0, 3))


IDENTICAL = Quality((math.inf,) * 4, (1.0,) * 4, math.inf, 0.018, 0.018)


@pytest.fixture
def report(tmp_path) -> Report:
    for name in ("dense", "accelerated"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    return Report(
        title="Dense against draft",
        prompt="a red circle",
        model="WanPipeline",
        recipe_name="wan.yaml",
        recipe_text='rules:\n  - match: "blocks.*.attn1"\n',
        dense=Run("dense", 25.0, 16.0, 12.0, tmp_path / "dense.mp4"),
        accelerated=Run("accelerated", 15.0, 8.0, 3.0, tmp_path / "accelerated.mp4"),
        comparisons=(
            Comparison("accelerated", "accelerated", quality(31.24), "Sparse.", 0.0834),
            Comparison("noise floor", "dense again", quality(70.0), "Other backend."),
            Comparison("other seed", "seed 1", quality(12.0), "Other noise.", 1.2),
        ),
        density_by_layer_and_step=((None, 0.25, 0.35), (None, 0.5, math.nan)),
        layer_names=("blocks.0.attn1", "blocks.1.attn1"),
        dense_reasons={"warm-up step": 2, "cross-attention": 6},
        sparse_calls=8,
        versions={"torch": "2.13.0"},
        settings={"device": "cpu"},
        command="accel compare wan --seed 0",
    )


class Tags(HTMLParser):
    """Every element opened and closed in order; collects tags and text."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text += data


def test_the_page_is_well_formed_and_has_every_part(report):
    tags = Tags(render_report(report))
    assert not tags.open
    assert tags.seen.count("video") == 2 and tags.seen.count("canvas") == 1
    for words in (
        "Dense against draft", "a red circle", "WanPipeline", "wan.yaml", "1.67×",  # noqa: RUF001
        "2.00×", "4.00×", "31.1 dB", "0.9000",  # noqa: RUF001
        "0.0834", "dense again", "seed 1", "cross-attention", "0.38", "blocks.*.attn1",
        "2.13.0", "cpu", "accel compare wan --seed 0", "blocks.1.attn1, step 2: density 0.500", "no call",
    ):  # fmt: skip
        assert words in tags.text, words


def test_videos_travel_inside_the_page(report):
    page = render_report(report)
    for name in (b"dense", b"accelerated"):
        assert f"data:video/mp4;base64,{base64.b64encode(name).decode()}" in page


def test_the_page_refers_to_nothing_outside_itself(report):
    page = render_report(report)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r'"data:[^"]*"', "", page))
    assert "default-src 'none'" in page
    for target in re.findall(r'(?:src|href|poster)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page):
        assert target.startswith(("data:", "#")), target


def test_words_of_the_user_are_escaped(report):
    page = render_report(
        replace(
            report,
            prompt="<script>alert(1)</script>",
            recipe_text="a: </pre><b>",
            dense_reasons={"<i>": 1},
            settings={"<u>": "&"},
        )
    )
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert not Tags(page).open


def test_missing_pieces_are_left_out_with_a_sentence(report):
    bare = Report("t", "", "m", "r", "", Run("dense", 2.0), Run("accelerated", 4.0))
    tags = Tags(render_report(bare))
    assert not tags.open and "video" not in tags.seen
    for sentence in (
        "(no prompt)",
        "No video of the dense run was kept",
        "No videos were compared",
        "Density by layer and step was not recorded",
        "Attention calls were not counted",
        "0.50×",  # noqa: RUF001
    ):
        assert sentence in tags.text
    assert (
        "was not compared with the dense one"
        in Tags(render_report(replace(report, comparisons=report.comparisons[1:]))).text
    )


def test_a_slower_run_is_marked(report):
    slower = replace(report, accelerated=replace(report.accelerated, seconds_total=50.0))
    assert 'class="tile worse"' in render_report(slower)
    assert 'class="tile worse"' not in render_report(report)


def test_identical_videos_are_said_to_be_identical(report):
    same = replace(report, comparisons=(Comparison("accelerated", "accelerated", IDENTICAL, "", 0.0),))
    page = Tags(render_report(same))
    assert "every value of every frame is equal" in page.text and "PSNR is infinite throughout" in page.text
    assert not re.search(r"\b(inf|nan)\b", page.text.split("Run it again")[0])


def test_one_frame_has_no_curves(report):
    image = (Comparison("accelerated", "accelerated", Quality((30.0,), (0.9,), 30.0), ""),)
    assert "A single frame has no curve" in Tags(render_report(replace(report, comparisons=image))).text


def test_write_report_replaces_whole_and_leaves_nothing_else(report, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    path = write_report(report, folder / "report.html")
    assert path.read_text(encoding="utf-8") == render_report(report)
    (tmp_path / "dense.mp4").unlink()
    with pytest.raises(FileNotFoundError):
        write_report(report, path)
    assert list(folder.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_report(replace(report, dense=Run("dense", 20.0)), tmp_path / "nowhere" / "report.html")


def test_as_dict_is_plain_json(report):
    stored = json.loads(json.dumps(report_as_dict(report), allow_nan=False))
    assert stored["speedup"] == {"total": 25 / 15, "transformer": 2.0, "attention": 4.0}
    assert stored["density_by_layer_and_step"] == [["dense", 0.25, 0.35], ["dense", 0.5, None]]
    assert stored["density"]["where_sparse"] == pytest.approx(1.1 / 3)
    assert stored["density"]["with_dense_as_1"] == pytest.approx(3.1 / 5)
    assert stored["quality"]["accelerated"]["latent_relative_error"] == 0.0834
    assert stored["quality"]["noise floor"]["psnr_pooled"] == 69.5
    assert stored["calls"] == {"sparse": 8, "dense": {"warm-up step": 2, "cross-attention": 6}}
    same = replace(report, comparisons=(Comparison("accelerated", "a", IDENTICAL),))
    json.dumps(report_as_dict(same), allow_nan=False)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda r: Run("dense", 0.0), "seconds_total must be above 0, got 0.0"),
        (lambda r: Run("dense", math.nan), "got nan"),
        (lambda r: Run("dense", 5.0, 6.0), "more than the 5.0"),
        (lambda r: Run("dense", 5.0, None, 6.0), "more than the 5.0"),
        (lambda r: Run("dense", 5.0, video_path="clip.avi"), "clip.avi"),
        (lambda r: Comparison("best", "x", quality()), "got 'best'"),
        (lambda r: Comparison("other seed", "x", quality(), latent_relative_error=-1.0), "got -1.0"),
        (lambda r: replace(r, comparisons=r.comparisons[:1] * 2), "at most once"),
        (lambda r: replace(r, comparisons=(*r.comparisons[:2], other_seed_of_three_frames())), r"\[3, 4\]"),
        (lambda r: replace(r, density_by_layer_and_step=((0.5,), (0.5, 0.5))), "rows of"),
        (lambda r: replace(r, density_by_layer_and_step=((0.5,), (0.0,))), r"\(0, 1\], got 0.0"),
        (lambda r: replace(r, layer_names=("one",)), "1 layer names for 2"),
        (lambda r: replace(r, dense_reasons={"mask": -1}), "mask"),
    ],
    ids=[
        "no-time", "nan-time", "part-longer", "attention-longer", "avi", "role", "negative-error",
        "role-twice", "frames", "ragged", "density0", "names", "calls",
    ],
)  # fmt: skip
def test_nonsense_is_refused(report, build, message):
    with pytest.raises(ValueError, match=message):
        build(report)
