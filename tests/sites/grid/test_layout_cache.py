"""Reuse of layouts: for how long, for which branches, and what ends it."""

from types import SimpleNamespace

import torch
from pytest import mark, raises

import tiny
from accel import accelerate_model
from accel.accelerate import patches_of
from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.policies.policy import Policy
from accel.recipe.recipe import Recipe
from accel.recipe.reuse import Reuse
from accel.sites.grid.call import Call
from accel.sites.grid.drift import drift, has_drifted, head_means
from accel.sites.grid.layout_cache import LayoutCache


class Maker:
    """Counts how often a layout is made."""

    def __init__(self):
        self.made = 0

    def __call__(self):
        self.made += 1
        return BlockLayout.full(16, 16, (16, 16))


def made(reuse, contexts, keys=None):
    cache, make, kept = LayoutCache(reuse), Maker(), {}
    counts = []
    for context, key in zip(contexts, keys or [0] * len(contexts), strict=True):
        cache.layout(Call(context, key, kept), make)
        counts.append(make.made)
    return counts


def steps(n, branches=1, generation=1):
    return [
        Context(step=step, n_steps=n, progress=step / n, branch=branch, generation=generation)
        for step in range(n)
        for branch in range(branches)
    ]


def test_off_by_default():
    assert made(Reuse(), steps(4)) == [1, 2, 3, 4]


def test_a_layout_serves_so_many_steps():
    assert made(Reuse(steps=3), steps(7)) == [1, 1, 1, 2, 2, 2, 3]


def test_progress_ends_it_sooner():
    assert made(Reuse(steps=4, max_progress=0.26), steps(8)) == [1, 1, 1, 2, 2, 2, 3, 3]


def test_branches_keep_their_own_unless_told_to_share():
    assert made(Reuse(steps=2), steps(2, branches=2)) == [1, 2, 2, 2]
    assert made(Reuse(steps=1, branches=True), steps(2, branches=2)) == [1, 1, 2, 2]


def test_another_generation_or_key_ends_it():
    contexts = [*steps(2), *steps(2, generation=2)]
    assert made(Reuse(steps=9), contexts) == [1, 1, 2, 2]
    assert made(Reuse(steps=9), steps(3), keys=["a", "a", "b"]) == [1, 1, 2]


def test_steps_without_a_number_are_counted():
    contexts = [
        Context(progress=progress, generation=1, turn=turn)
        for turn, progress in ((0, 0.1), (0, 0.1), (1, 0.3), (2, 0.8))
    ]
    assert made(Reuse(steps=2), contexts) == [1, 1, 1, 2]
    assert made(Reuse(steps=9, max_progress=0.3), contexts) == [1, 1, 1, 2]
    assert made(Reuse(branches=True), contexts) == [1, 1, 2, 3]


def test_each_call_of_a_forward_keeps_its_own():
    cache, make, kept = LayoutCache(Reuse(steps=2)), Maker(), {}
    for context in steps(2):
        for call in (0, 1):
            cache.layout(Call(context, "alike", kept, call), make)
    assert make.made == 2


def moving(at):
    """Two heads of which the first moves: 2 samples of 4 tokens with 2 channels, one head of keys."""
    q = torch.zeros(2, 2, 4, 2)
    q[:, 0, :, 0] = at
    return q, torch.zeros(2, 1, 4, 2)


def test_a_layout_serves_until_the_tokens_drift():
    # By hand: one of two channels moves, so the drift is half of the way, in half of the heads.
    then, now = (head_means(*moving(at)) for at in (1.0, 4.0))
    assert drift(then, now).tolist() == [[1.5, 0.0]] * 2
    keys = torch.full((2, 1, 4, 2), 0.5)
    assert (
        drift(head_means(moving(0)[0], keys * 0), head_means(moving(3)[0], keys)).tolist() == [[2.0, 0.5]] * 2
    )
    cache, make, kept = LayoutCache(Reuse(steps=9, max_drift=1.4, branches=True)), Maker(), {}
    places = iter([0, 9, 2, 0, 5, 0, 6, 3, float("nan"), 0])
    counts = []
    # The second pass of guidance is elsewhere, and does not count.
    for context in steps(5, branches=2):
        cache.layout(Call(context, "alike", kept), make, moving(next(places)))
        counts.append(make.made)
    assert counts == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_all_heads_of_a_layer_decide_together():
    then, now = (head_means(*moving(at)) for at in (0.0, 9.0))
    three_others_stay = SimpleNamespace(gather=lambda asks: torch.cat([asks, asks.new_zeros(2, 3)], dim=1))
    assert has_drifted(then, now, 1.0, None)
    assert not has_drifted(then, now, 1.0, three_others_stay)


def test_drift_is_nothing_for_one_step():
    with raises(ValueError, match="max_drift needs steps above 1"):
        Reuse(max_drift=0.2)


@mark.parametrize("change", ["shape", "adapter", "generation"])
@torch.no_grad()
def test_a_models_cached_layouts_end_with(change):
    recipe = Recipe.model_validate(
        {
            "reuse": {"steps": 50},
            "rules": [{"match": "*", "policy": {"method": "radial", "decay": 0.6, "block_size": [16, 16]}}],
        }
    )
    model = accelerate_model(tiny.wan(), recipe)
    attention = patches_of(model)[0].installed[0].attention
    calls = []
    real = attention.policy
    attention.policy = Counting(real, calls)
    model(**tiny.inputs(model))
    model(**{**tiny.inputs(model), "timestep": torch.tensor([400.0])})
    assert len(calls) == 1
    inputs = {**tiny.inputs(model), "timestep": torch.tensor([300.0])}
    if change == "shape":
        inputs = {**tiny.inputs(model, width=24), "timestep": torch.tensor([300.0])}
    if change == "adapter":
        from peft import LoraConfig

        model.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    if change == "generation":
        inputs = {**inputs, "timestep": torch.tensor([900.0])}
    model(**inputs)
    assert len(calls) == 2


class Counting(Policy):
    """A policy that notes every layout it is asked for."""

    def __init__(self, policy, calls):
        self.policy, self.calls, self.method = policy, calls, policy.method

    def layout(self, *args):
        self.calls.append(args)
        return self.policy.layout(*args)
