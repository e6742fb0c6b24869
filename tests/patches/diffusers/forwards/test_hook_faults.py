"""An error of ours outside the sites: the generation goes on, dense where it must, and it is said once."""

import copy
import warnings

import torch
from pytest import fixture, mark, raises, warns

import tiny
from accel import accelerate_model, restore_model, summary
from accel.apply.notices import Notices
from accel.patches.diffusers.forwards import root_hook
from accel.patches.diffusers.forwards.clock import Clock
from accel.sites.faults import FaultWarning
from tiny_wan_pipeline import latents, recipe, wan_pipeline

BEFORE = {
    "the clock": (Clock, "read"),
    "the reading of arguments": (root_hook, "named_arguments"),
    "the call stack": (root_hook, "call_stack"),
    "what records": (root_hook, "recorder"),
}


@fixture
def pipe():
    return wan_pipeline()


def fail(*_, **__):
    raise RuntimeError("broken")


@mark.parametrize("what", BEFORE)
def test_an_error_before_a_forward_makes_it_dense(pipe, monkeypatch, what):
    monkeypatch.delenv("ACCEL_STRICT")
    expected = latents(pipe)
    accelerate_model(pipe, recipe())
    monkeypatch.setattr(*BEFORE[what], fail)
    with warns(FaultWarning, match="reading a forward: RuntimeError: broken") as told:
        assert torch.equal(latents(pipe), expected)
    assert len([warning for warning in told if warning.category is FaultWarning]) == 1
    account = summary(pipe)
    assert account.dense_reasons == {"reading a forward failed (RuntimeError: broken)": account.calls}
    assert account.calls == 6 * 2 * 3


def test_an_error_after_a_forward_changes_nothing(pipe, monkeypatch):
    monkeypatch.delenv("ACCEL_STRICT")
    expected = latents(accelerate_model(copy.deepcopy(pipe), recipe()))
    accelerate_model(pipe, recipe())
    monkeypatch.setattr(Notices, "after_forward", fail)
    with warns(FaultWarning, match="looking back at a forward: RuntimeError: broken"):
        assert torch.equal(latents(pipe), expected)
    assert not summary(pipe).dense_reasons
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latents(pipe)


@mark.parametrize("target", [*BEFORE.values(), (Notices, "after_forward")], ids=[*BEFORE, "notices"])
def test_strict_raises_what_happened(pipe, monkeypatch, target):
    accelerate_model(pipe, recipe())
    monkeypatch.setattr(*target, fail)
    with raises(RuntimeError, match="broken"):
        latents(pipe)
    monkeypatch.undo()
    assert torch.equal(latents(pipe), latents(accelerate_model(copy.deepcopy(pipe), recipe())))


def test_a_forward_is_read_again_once_the_error_is_gone(monkeypatch):
    monkeypatch.delenv("ACCEL_STRICT")
    model = accelerate_model(tiny.wan(), recipe())
    given = tiny.inputs(model)
    expected = model(**given)[0]
    with monkeypatch.context() as broken, warns(FaultWarning):
        broken.setattr(Clock, "read", fail)
        model(**given)
    assert torch.equal(model(**given)[0], expected)
    restore_model(model)
