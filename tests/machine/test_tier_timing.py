"""Tiers are timed once per machine, in a child process, when a model is accelerated; results are kept."""

import json
import math

import torch
from pytest import fixture, importorskip, mark, warns

import tiny
from accel import accelerate_model
from accel.kernels.attention.tiers import choose_tier
from accel.kernels.check_results import PASSED
from accel.kernels.check_results import known as known_results
from accel.kernels.timings import BLOCKS, Call, known, timings_file
from accel.machine import tier_check, tier_timing
from accel.machine.tier_check_process import NOT_CHECKED, command, printed_and_outcome
from accel.machine.tier_timing import TIMED, child, time_if_unknown, time_tiers
from fake_hopper import fake_hopper, forget

importorskip("triton")
CALL = torch.device("cuda"), torch.bfloat16, 128


@fixture
def hopper(tmp_path):
    with fake_hopper(tmp_path) as patch:
        yield patch


@fixture
def timed(hopper):
    """What is timed; `timed.says` is what the child found, by tier, and how it ended."""

    class Timed(list):
        found, result = {"triton": 2.0}, PASSED

    timed = Timed()

    def in_process(tiers, *call):
        timed.append(tiers)
        keys = [(Call(*call, block).key(name), s) for block in BLOCKS for name, s in timed.found.items()]
        return dict(keys), timed.result

    hopper.setattr(tier_timing, "time_in_process", in_process)
    return timed


def passes(name):
    known_results()[tier_check.key(name, *CALL)] = PASSED


def test_once_a_machine_and_again_for_a_tier_that_has_passed_since(timed):
    with warns(UserWarning, match=r"timing kernels for bfloat16 and head dim 128.* in .*timings\.json"):
        time_if_unknown(*CALL)
    time_if_unknown(*CALL)
    forget()
    time_if_unknown(*CALL)
    assert timed == [["triton"]] and set(json.loads(timings_file().read_text()).values()) == {2.0}
    passes("hopper")
    timed.found = {"triton": 2.0, "hopper": 1.0}
    with warns(UserWarning, match="timing"):
        time_if_unknown(*CALL)
    assert timed[1:] == [["hopper", "triton"]] and choose_tier(*CALL).name == "hopper"
    passes("cudnn")
    assert time_tiers(*CALL) is None and timed[2] == ["hopper", "triton"], "cuDNN is not installed"


def test_what_the_child_did_not_reach_is_not_tried_again(timed):
    passes("hopper")
    timed.found, timed.result = {"triton": 2.0}, "did not finish its check within 60 s, at: timed"
    with warns(UserWarning):
        time_if_unknown(*CALL)
    forget()
    passes("hopper")
    time_if_unknown(*CALL)
    assert len(timed) == 1 and known()[Call(*CALL, (64, 64)).key("hopper")] == math.inf
    assert choose_tier(*CALL).name == "hopper", "tiers that were not all timed keep their order"


def test_what_says_nothing_of_the_tiers_is_not_kept(timed):
    timed.found, timed.result = {}, f"{NOT_CHECKED}: out of memory"
    with warns(UserWarning, match="kernels were not timed: .* out of memory"):
        time_if_unknown(*CALL)
    time_if_unknown(*CALL)
    assert len(timed) == 1 and not timings_file().exists()


NOT_TIMED = {
    "cpu": (torch.device("cpu"), torch.bfloat16, 128),
    "one-configuration": (CALL[0], torch.float32, 128),
    "no-kernel": (CALL[0], torch.bfloat16, 512),
}


@mark.parametrize("call", NOT_TIMED.values(), ids=NOT_TIMED.keys())
@mark.filterwarnings("error")
def test_where_nothing_is_timed(hopper, timed, call):
    time_if_unknown(*call)
    hopper.setenv("ACCEL_CHECK", "0")
    time_if_unknown(*CALL)
    assert not timed


def test_the_child_prints_each_time(tmp_path):
    """The true child, on the PyTorch tier and a short call, with a timer that does not need a GPU."""
    interpreter, flag, code = command(child, "torch", torch.device("cpu"), torch.float32, 16)
    short = (
        "; from accel.kernels.check import timing; timing.TOKENS = 200; "
        "timing.seconds_of = lambda run: float(run()[0].shape[2]); child("
    )
    lines, result = printed_and_outcome([interpreter, flag, short.join(code.split("; child("))], 120, 120)
    found = [json.loads(line.removeprefix(TIMED)) for line in lines if line.startswith(TIMED)]
    assert result == PASSED and [*found[0].values()] == [math.inf] and len(found) == 2 * len(BLOCKS)
    assert {seconds for one in found[len(BLOCKS) :] for seconds in one.values()} == {200.0}


@torch.no_grad()
def test_accelerating_asks_and_generating_does_not(monkeypatch):
    asked = []
    monkeypatch.setattr(tier_timing, "time_if_unknown", lambda *call: asked.append(call))
    model = accelerate_model(tiny.wan(), "radial")
    assert asked == [(torch.device("cpu"), torch.float32, 16)]
    model(**tiny.inputs(model))
    assert len(asked) == 1
