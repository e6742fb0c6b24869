"""Copies, pickles and pipelines made of the parts of an accelerated one: each counts by its own scheduler."""

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from pytest import fixture, mark

import tiny
from accel import accelerate_model, accelerated, restore_model, summary
from accel.patches.hook import hook_of
from tiny_wan_pipeline import latents, recipe, wan_pipeline

RECIPE = recipe(reuse={"steps": 2}, schedule={"dense_steps": 0.25})
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


def shifted():
    """A scheduler whose noise levels are far from its shares of steps."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)


@fixture
def pipe():
    pipe = wan_pipeline()
    pipe.scheduler = shifted()
    return accelerate_model(pipe, RECIPE)


@fixture(params=COPIES.values(), ids=COPIES)
def copied(request):
    return request.param


def loop(model, scheduler, steps=6):
    """A loop of the user's own."""
    latents = torch.randn(1, 4, 5, 12, 20, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(1))
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            noise = model(latents, timestep.expand(1), text, return_dict=False)[0]
        latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
    return latents


def hidden_loop(model, holder):
    """A loop whose scheduler is in no variable that could be found."""
    latents = torch.zeros(1, 4, 5, 12, 20)
    holder[0].set_timesteps(6)
    for timestep in holder[0].timesteps:
        with torch.no_grad():
            noise = model(latents, timestep.expand(1), torch.zeros(1, 7, 16), return_dict=False)[0]
        latents = holder[0].step(noise, timestep, latents, return_dict=False)[0]
    return latents


def first_steps(thing):
    assert set(summary(thing).dense_reasons) <= {"first steps"}
    return summary(thing).dense_reasons.get("first steps", 0)


def test_a_copied_pipeline_counts_by_its_own_scheduler(pipe, copied):
    clone = copied(pipe)
    expected, once = latents(pipe), first_steps(pipe)
    assert torch.equal(latents(clone), expected) and first_steps(clone) == once > 0
    assert summary(clone).to_dict()["steps_counted_by"] == "scheduler"
    assert torch.equal(latents(pipe), expected) and first_steps(clone) == once


def test_a_loop_over_a_copied_pipeline_is_counted_too(pipe, copied):
    clone = copied(pipe)
    expected = loop(pipe.transformer, pipe.scheduler)
    assert torch.equal(loop(clone.transformer, clone.scheduler), expected)
    assert first_steps(clone) == first_steps(pipe) > 0


def test_a_copied_model_is_counted_by_whatever_scheduler_its_loop_has(copied):
    scheduler = shifted()
    model = accelerate_model(tiny.wan(), RECIPE, scheduler=scheduler)
    both = copied((model, scheduler))
    expected, once = loop(model, scheduler), first_steps(model)
    assert torch.equal(loop(*both), expected) and first_steps(both[0]) == once
    alone = copied(model)
    assert torch.equal(loop(alone, scheduler), expected) and first_steps(alone) == 2 * once
    assert torch.equal(loop(alone, shifted()), expected) and first_steps(alone) == 3 * once
    assert summary(alone).to_dict()["steps_counted_by"] == "scheduler"


def test_a_scheduler_that_nobody_steps_counts_nothing():
    holder = [shifted()]
    model = accelerate_model(tiny.wan(), RECIPE, scheduler=holder[0])
    holder[0].set_timesteps(6)
    holder[0]._step_index = 3
    clone = copy.deepcopy(model)
    plain = accelerate_model(tiny.wan(), RECIPE)
    assert torch.equal(hidden_loop(clone, [shifted()]), hidden_loop(plain, [shifted()]))


def parts_of(pipe, **changes):
    made = WanPipeline(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler), **changes})
    made.set_progress_bar_config(disable=True)
    return made


def test_pipelines_of_a_thread_pool_share_an_accelerated_transformer(pipe):
    pipes = [parts_of(pipe) for _ in range(4)]
    expected = [latents(one, steps=4 + n) for n, one in enumerate(pipes)]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda n: latents(pipes[n], steps=4 + n), range(4)))
    assert all(map(torch.equal, got, expected)) and first_steps(pipe) > 0


def test_a_shallow_copy_with_a_scheduler_of_its_own_runs_beside_the_first(pipe):
    other = copy.copy(pipe)
    other.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected = [latents(pipe), latents(other, steps=9)]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(latents, pipe), pool.submit(latents, other, steps=9)]
    assert all(torch.equal(job.result(), alone) for job, alone in zip(jobs, expected, strict=True))


def test_an_expert_of_a_pipeline_made_later_counts_by_that_one(pipe):
    later = parts_of(pipe, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    del pipe
    gc.collect()
    latents(later, steps=8)
    assert first_steps(later) > 0 and summary(later).to_dict()["steps_counted_by"] == "scheduler"


def test_a_scheduler_swapped_between_calls_counts_from_then_on(pipe):
    expected, scheduler = latents(pipe), pipe.scheduler
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    latents(pipe, steps=9)
    pipe.scheduler = scheduler
    assert torch.equal(latents(pipe), expected) and first_steps(pipe) > 0


def output(model):
    with torch.no_grad():
        return model(**tiny.inputs(model))[0]


@mark.parametrize("how", [copy.deepcopy, copy.copy])
def test_a_copy_is_restored_and_accelerated_for_itself(how):
    model, plain = accelerate_model(tiny.wan(), RECIPE), output(tiny.wan())
    sparse, clone = output(model), how(model)
    assert torch.equal(output(clone), sparse)
    restore_model(clone)
    assert hook_of(clone) is None and torch.equal(output(clone), plain)
    if how is copy.copy:
        # A shallow copy has the very modules of the first.
        assert hook_of(model) is None and torch.equal(output(model), plain)
        return
    assert torch.equal(output(model), sparse)
    accelerate_model(clone, recipe(schedule={"dense_steps": 1.0}))
    restore_model(model)
    assert torch.equal(output(model), plain) and summary(clone).sites


def test_a_copy_compiles(pipe):
    clone = copy.deepcopy(pipe)
    expected = latents(clone)
    for block in clone.transformer.blocks:
        block.compile(backend="eager")
    assert torch.equal(latents(clone), expected)
    twice = copy.deepcopy(clone)
    assert torch.equal(latents(twice), expected)
    clone.transformer = torch.compile(pipe.transformer, backend="eager")
    assert torch.equal(latents(clone), expected) and first_steps(clone) > 0


def test_blocks_nest(pipe):
    restore_model(pipe)
    plain, sparser = latents(pipe), recipe()
    with accelerated(pipe, RECIPE):
        first = latents(pipe)
        with accelerated(pipe, sparser):
            second = latents(pipe)
            with accelerated(pipe, RECIPE):
                assert torch.equal(latents(pipe), first)
            assert torch.equal(latents(pipe), second)
        assert torch.equal(latents(pipe), first)
    assert torch.equal(latents(pipe), plain) and not torch.equal(first, second)


def run_then_drop(run):
    """Run something that holds a model in a variable of a function, and see whether dropping it frees it."""
    held = SimpleNamespace(pipe=accelerate_model(wan_pipeline(), RECIPE))
    model = held.pipe.transformer
    run(held)
    gone = weakref.ref(model)
    del model, held
    gc.collect()
    return gone() is None


def test_looking_at_the_call_stack_keeps_nothing_alive():
    assert run_then_drop(lambda held: latents(held.pipe))
    assert run_then_drop(lambda held: loop(held.pipe.transformer, held.pipe.scheduler))
    assert run_then_drop(lambda held: loop(held.pipe.transformer, shifted()))


def test_variables_that_a_function_took_hold_of_stay_its_own(pipe):
    model = pipe.transformer
    mine = locals()
    before = set(mine)
    loop(model, shifted())
    assert before <= set(mine) and mine["model"] is model
