"""The pipeline's bar says which run it is of how many, and how long the others take; then it is as before."""

from accel.run import watcher
from accel.run.watcher import WARM_UP, NamedBars


class Pipe:
    def __init__(self):
        self._progress_bar_config = {"disable": False, "desc": "mine"}

    def set_progress_bar_config(self, **config):
        self._progress_bar_config = config


def test_bars_say_which_run_and_what_is_left(monkeypatch):
    clock = iter([0.0, 100.0, 130.0, 130.0])
    monkeypatch.setattr(watcher.time, "perf_counter", lambda: next(clock))
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
