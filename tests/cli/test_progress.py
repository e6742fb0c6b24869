"""The bar says which run it is, and a terminal that can shows the latents below it; then all is as before."""

import io
import re
import sys

import pytest
import torch
from PIL import Image

from accel.cli import progress
from accel.cli.picture import Picture, lines_of
from accel.cli.progress import NamedBars, named_bars
from accel.run.watcher import WARM_UP


class Pipe:
    def __init__(self):
        self._progress_bar_config = {"disable": False, "desc": "mine"}

    def set_progress_bar_config(self, **config):
        self._progress_bar_config = config


def test_bars_say_which_run_and_what_is_left(monkeypatch):
    clock = iter([0.0, 100.0, 130.0, 130.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    pipe, said = Pipe(), []
    bars = NamedBars(pipe)
    for number, name in enumerate((WARM_UP, "dense", "accelerated"), start=1):
        bars.begins(name, number, 4)
        said.append(pipe._progress_bar_config)
        if name != "accelerated":
            bars.made(name, None)
    assert [each["desc"] for each in said] == [
        "1 of 4: warm-up",
        "2 of 4: dense",
        "3 of 4: accelerated, then 30 s at most",
    ]
    assert said[0]["disable"] is False
    bars.close()
    assert pipe._progress_bar_config == {"disable": False, "desc": "mine"}


def test_a_pipeline_without_a_bar_needs_none():
    bars = NamedBars(object())
    bars.begins("dense", 1, 1)
    bars.close()
    assert bars.before == {}


def test_a_single_run_is_not_counted():
    pipe = Pipe()
    NamedBars(pipe).begins("dense", 1, 1)
    assert pipe._progress_bar_config["desc"] == "dense"


def test_a_picture_is_as_many_lines_as_the_cursor_goes_back():
    stream = io.StringIO()
    picture = Picture(stream, columns=12, rows=5)
    picture.draw(Image.linear_gradient("L").resize((60, 30)))
    written = stream.getvalue()
    assert written.count("\n") == 3 and written.endswith("\x1b[3A\r")
    assert [len(re.sub(r"\x1b\[[\d;]*m", "", line)) - 1 for line in written.split("\n")[1:3]] == [12, 12]
    picture.erase()
    picture.erase()
    assert stream.getvalue().removeprefix(written) == "\x1b[J", "erased once"


def test_a_character_is_two_pixels_and_alike_ones_share_their_colours():
    image = Image.new("RGB", (3, 3), (1, 2, 3))
    image.putpixel((2, 1), (4, 5, 6))
    assert lines_of(image) == [
        "\x1b[38;2;1;2;3;48;2;1;2;3m▀▀\x1b[38;2;1;2;3;48;2;4;5;6m▀\x1b[0m",
        "\x1b[38;2;1;2;3;48;2;1;2;3m▀▀▀\x1b[0m",
    ]


class Terminal(io.TextIOWrapper):
    def __init__(self, is_one=True, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.isatty = lambda: is_one


def a_terminal(monkeypatch, out=True, err=True, encoding="utf-8", **environment):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    usual = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "100", "LINES": "40"}
    for name, value in {**usual, **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal(out))
    monkeypatch.setattr(sys, "stderr", Terminal(err, encoding))


def test_a_terminal_of_all_colours_gets_a_picture(monkeypatch):
    a_terminal(monkeypatch)
    picture = Picture.of_terminal()
    assert (picture.columns, picture.rows, picture.stream) == (64, 18, sys.stderr)
    with named_bars(Pipe(), with_preview=False) as bars:
        assert bars.picture is None


@pytest.mark.parametrize(
    "terminal",
    [
        {"out": False}, {"err": False}, {"err": False, "FORCE_COLOR": "1"}, {"encoding": "latin-1"},
        {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLORTERM": ""}, {"LINES": "7"},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_show_one_gets_none(monkeypatch, terminal):
    a_terminal(monkeypatch, **terminal)
    assert Picture.of_terminal() is None


def test_each_step_is_shown_and_nothing_stays(monkeypatch):
    a_terminal(monkeypatch)
    with named_bars(Pipe(), with_preview=True) as bars:
        bars.begins("dense", 1, 1)
        bars.step(0, torch.randn(1, 4, 3, 8, 8))
        assert bars.picture.drawn
        bars.step(1, torch.randn(1, 100, 64))  # packed: nothing to show
    sys.stderr.flush()
    written = sys.stderr.buffer.getvalue().decode()
    assert written.count("▀") > 64 and written.endswith("\x1b[J")
