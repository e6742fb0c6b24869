"""Schedules of a few steps: when a recipe takes one for that, and what changes then."""

import torch
from pytest import mark

from accel import accelerate_model, restore_model, summary
from accel.recipe.few_steps import FewSteps
from accel.recipe.files import load_recipe
from accel.recipe.reuse import Reuse
from accel.recipe.schedule import Schedule
from tiny_wan_pipeline import attentions, latents, recipe, wan_pipeline

RULES = FewSteps()


@mark.parametrize(
    ("n_steps", "guided", "adapters", "few"),
    [
        (4, False, (), True),
        (8, None, (), True),
        (9, False, (), False),
        (4, True, (), False),
        (None, False, (), False),
        (6, True, ("Wan21_T2V_14B_lightx2v_cfg",), True),
        (4, True, ("anime-style", "my_4steps_v2"), True),
        (4, True, ("hyperrealism", "footsteps", "12steppes"), False),
        (50, False, ("lightning",), False),
    ],
)
def test_what_is_a_schedule_of_few_steps(n_steps, guided, adapters, few):
    assert (RULES.why(n_steps, guided, adapters) is not None) == few


def test_it_says_why():
    assert RULES.why(4, False, ()) == "4 steps, no guidance"
    assert RULES.why(4, True, ("style", "turbo")) == "4 steps, adapter turbo"


def test_nothing_is_reused_and_no_share_of_steps_is_dense():
    assert RULES.reuse(Reuse(steps=5, max_progress=0.1, branches=True)) == Reuse(branches=True)
    usual = Schedule(dense_steps=0.25, dense_every=0.2, dense_layers=0.1, min_tokens=9)
    assert RULES.schedule(usual) == Schedule(dense_layers=0.1, min_tokens=9)


def by_step(pipe):
    """Which steps each site ran dense."""
    return [sorted(attention.record.dense_steps) for attention in attentions(pipe)]


@mark.parametrize("guidance_scale, dense", [(1.0, [0]), (3.0, [0, 1])])
def test_one_dense_step_without_guidance(guidance_scale, dense):
    pipe = wan_pipeline()
    settings = {"schedule": {"dense_steps": 0.5}, "reuse": {"steps": 5}, "few_steps": {}}
    accelerate_model(pipe, recipe(**settings))
    out = latents(pipe, steps=4, guidance_scale=guidance_scale)
    assert torch.isfinite(out).all()
    assert by_step(pipe)[-1] == dense
    assert ("few steps (4 steps, no guidance)" in str(summary(pipe))) == (guidance_scale == 1.0)
    restore_model(pipe)


def test_more_steps_are_as_ever():
    pipe, other = wan_pipeline(), wan_pipeline()
    accelerate_model(pipe, recipe(schedule={"dense_steps": 0.2}, few_steps={"most_steps": 4}))
    accelerate_model(other, recipe(schedule={"dense_steps": 0.2}))
    arguments = {"steps": 6, "guidance_scale": 1.0}
    assert torch.equal(latents(pipe, **arguments), latents(other, **arguments))
    assert summary(pipe).few_steps == ""


def test_the_second_expert_starts_dense_too():
    pipe = wan_pipeline(experts=2)
    accelerate_model(pipe, recipe(schedule={"dense_steps": 0.5}, few_steps={}))
    latents(pipe, steps=4, guidance_scale=1.0)
    first, *_, last = by_step(pipe)
    assert first == [0] and len(last) == 1 and last[0] > 0
    latents(pipe, steps=4, guidance_scale=1.0)
    again = [attention.record.dense_steps for attention in attentions(pipe)]
    assert again[0] == {0: 2} and list(again[-1].values()) == [2]


def test_shipped_recipes_for_videos_have_it():
    assert load_recipe("auto").few_steps == FewSteps()
    assert load_recipe("wan2.1-t2v-14b").few_steps == FewSteps()


def test_a_residual_serves_the_step_after_the_dense_one():
    pipe = wan_pipeline()
    accelerate_model(
        pipe, recipe(schedule={"dense_steps": 0.5}, compensate={"kind": "residual"}, few_steps={})
    )
    latents(pipe, steps=4, guidance_scale=1.0)
    sites = len(attentions(pipe))
    assert summary(pipe).residual == {"captured": sites, "applied": sites, "too old": 2 * sites}
