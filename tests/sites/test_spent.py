"""What dense and sparse calls took is known from the first of them, wherever they ran, and copies keep it."""

import copy
import pickle

import torch
from pytest import approx, mark

from accel.sites import spent
from accel.sites.spent import MOST, MOST_FORMS, Saving, Spent, saving


@mark.parametrize(
    "dense, sparse, saved", [((3.0, 3.0), (1.0, 1.0, 5.0), (3.0, 9.0)), ((1.0,), (1.0, 1.0), None)]
)
def test_a_saving_is_of_medians_of_calls_that_ran_both_ways(monkeypatch, dense, sparse, saved):
    """One call that took long, the first of a process, sways nothing; one alone says nothing."""
    times = Spent()
    for kind, seconds in (("dense", dense), ("sparse", sparse)):
        for each in seconds:
            monkeypatch.setattr(spent, "mark", lambda device, each=each: each)
            times.stop(torch.ones(1, 8, 2, 4), kind, 0.0)
    assert saving([times], "sparse") == (None if saved is None else Saving(*saved))


def test_the_dense_calls_of_one_site_are_the_measure_of_another():
    """Where a residual is captured, no call of its site is plainly dense."""
    first, second, q = Spent(), Spent(), torch.ones(1, 8, 2, 4)
    for _ in range(2):
        first.stop(q, "dense", first.start(q, "dense"))
        second.stop(q, "capture", second.start(q, "capture"))
    assert saving([first, second], "sparse") is None
    assert saving([first, second], "sparse", "capture").dense > 0


def test_calls_of_other_forms_are_not_compared():
    times = Spent()
    for length in (8, 16):
        for _ in range(3):
            q = torch.ones(1, length, 2, 4)
            kind = "dense" if length == 8 else "sparse"
            times.stop(q, kind, times.start(q, kind))
    assert saving([times], "sparse") is None


def test_only_the_first_calls_are_timed_and_all_are_counted():
    times, q = Spent(), torch.ones(1, 8, 2, 4)
    for _ in range(MOST):
        times.stop(q, "sparse", times.start(q, "sparse"))
        times.stop(q, "dense", times.start(q, "dense"))
    assert times.start(q, "sparse") is None
    before = saving([times], "sparse")
    times.stop(q, "sparse", None)
    assert saving([times], "sparse").dense == approx(before.dense * (MOST + 1) / MOST)
    for length in range(2 * MOST_FORMS):
        times.stop(torch.ones(1, length, 2, 4), "dense", None)
    assert len(times.of("dense")) + len(times.of("sparse")) == MOST_FORMS


class Event:
    """An event of CUDA that cannot be pickled."""

    finished = True

    def __init__(self, enable_timing):
        self.cannot_travel = lambda: None

    def record(self, stream):
        pass

    def query(self):
        return self.finished

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 500.0


class OnCuda:
    """Queries that say they are on a GPU."""

    shape, dtype, device = torch.Size((1, 8, 2, 4)), torch.bfloat16, torch.device("cuda:0")


@mark.parametrize("finished", [True, False])
def test_a_copy_carries_what_the_device_has_finished(monkeypatch, finished):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(Event, "finished", finished)
    times = Spent()
    for kind in ("dense", "sparse"):
        for _ in range(2):
            times.stop(OnCuda, kind, times.start(OnCuda, kind))
    copies = [copy.deepcopy(times), pickle.loads(pickle.dumps(times))]
    assert saving([times], "sparse") == Saving(1.0, 1.0)
    assert [saving([each], "sparse") for each in copies] == [Saving(1.0, 1.0) if finished else None] * 2
