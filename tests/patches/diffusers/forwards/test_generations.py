"""Whole generations: callbacks, interrupts, two experts, two pipelines at once, each compared with dense."""

import threading

import torch
from pytest import mark

from accel import accelerate_model, restore_model, summary
from accel.recipe.recipe import Recipe
from real_pipelines import PIPELINES
from tiny_inputs import TEXT
from tiny_wan_pipeline import POOLED, attentions, keep_every_block, latents, recipe, wan_pipeline


def shift(pipe, step, timestep, tensors):
    """Changes the latents of every step."""
    return {"latents": tensors["latents"] + 0.1 * step}


def other_prompt(pipe, step, timestep, tensors):
    """Changes the prompt in the middle."""
    return {"prompt_embeds": tensors["prompt_embeds"].neg()} if step == 2 else {}


def no_more_guidance(pipe, step, timestep, tensors):
    """Drops the unconditional pass in the middle."""
    if step == 2:
        pipe._guidance_scale = 1.0
    return tensors


def interrupt(pipe, step, timestep, tensors):
    """Leaves out what remains of the loop."""
    pipe._interrupt = step >= 3
    return tensors


CALLBACKS = {
    shift: ["latents"],
    other_prompt: ["latents", "prompt_embeds"],
    no_more_guidance: ["latents"],
    interrupt: ["latents"],
}


@mark.parametrize("callback", CALLBACKS, ids=lambda callback: callback.__name__)
def test_callbacks_change_what_they_change_in_the_dense_model(callback):
    changes = {
        "callback_on_step_end": callback,
        "callback_on_step_end_tensor_inputs": CALLBACKS[callback],
    }
    pipe = wan_pipeline()
    plain, expected = latents(pipe), latents(pipe, **changes)
    assert not torch.equal(plain, expected)
    keep_every_block(pipe)
    torch.testing.assert_close(latents(pipe, **changes), expected, atol=1e-4, rtol=1e-4)
    accelerate_model(pipe, recipe(reuse={"steps": 3}))
    sparse = latents(pipe, **changes)
    assert summary(pipe).sparse_density < 1 and not torch.equal(sparse, expected)
    accelerate_model(pipe, recipe(reuse={"steps": 3}))
    latents(pipe)
    assert torch.equal(latents(pipe, **changes), sparse)
    restore_model(pipe)
    assert torch.equal(latents(pipe, **changes), expected) and torch.equal(latents(pipe), plain)


def test_a_new_prompt_gets_layouts_of_its_own():
    pipe = accelerate_model(wan_pipeline(), recipe(reuse={"steps": 50}))
    made = layouts_made(attentions(pipe)[0])
    changes = {"callback_on_step_end": other_prompt, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    latents(pipe, guidance_scale=1.0, **changes)
    assert [step for step, _ in made] == [0, 3]


@mark.parametrize("name", ["mochi", "cogvideox"])
def test_layouts_serve_as_many_steps_where_samples_come_one_by_one_or_nobody_counts(name):
    case = PIPELINES[name]
    pipe = accelerate_model(case.pipe(), recipe(reuse={"steps": 2}))
    attention = attentions(pipe)[0]
    made = layouts_made(attention)
    case.run(pipe, (3, 6, 8), num_inference_steps=6)
    assert attention.record.calls == 6 * (4 if name == "mochi" else 1)
    assert len(made) == attention.record.calls / 2


def test_samples_that_come_one_by_one_keep_blocks_of_their_own():
    case, latents, all_text = PIPELINES["mochi"], [], torch.ones(2, TEXT)
    masks = {"prompt_attention_mask": all_text, "negative_prompt_attention_mask": all_text}
    for reuse in ({"steps": 1}, {"steps": 2, "max_progress": 1e-6}):
        pipe = accelerate_model(case.pipe(), recipe(reuse=reuse))
        latents.append(case.run(pipe, (3, 6, 8), **masks))
    assert torch.equal(*latents)


def test_a_generation_after_an_interrupt_starts_anew():
    pipe = accelerate_model(wan_pipeline(), recipe(reuse={"steps": 50}, schedule={"dense_steps": 0.3}))
    expected = latents(pipe)
    latents(pipe, callback_on_step_end=interrupt)
    attention = attentions(pipe)[1]
    made = layouts_made(attention)
    assert torch.equal(latents(pipe), expected)
    assert made == [(2, 0), (2, 1)]


def layouts_made(attention):
    """(step, branch) of every layout that is chosen from now on."""
    made, choose = [], attention._choose

    def chosen(q, k, context):
        made.append((context.step, context.branch))
        return choose(q, k, context)

    attention._choose = chosen
    return made


TWO_EXPERTS = Recipe.model_validate(
    {
        "schedule": {"dense_steps": 0.3},
        "reuse": {"steps": 2},
        "rules": [
            {"match": "transformer.*", "policy": POOLED},
            {"match": "transformer_2.*", "policy": {**POOLED, "select": {"kind": "top_k", "density": 0.2}}},
        ],
    }
)


def test_two_experts_count_their_steps_together_each_by_its_recipe():
    pipe = wan_pipeline(experts=2)
    expected = latents(pipe)
    keep_every_block(pipe)
    torch.testing.assert_close(latents(pipe), expected, atol=1e-4, rtol=1e-4)
    accelerate_model(pipe, TWO_EXPERTS)
    for _ in range(2):
        latents(pipe)
    first, second = (attentions(pipe)[n].record for n in (1, 4))
    assert set(first.sparse) == {2} and dict(first.dense) == {"first steps": 8}
    assert set(second.sparse) == {3, 4, 5} and not second.dense
    assert first.density() > 1.5 * second.density()
    account = summary(pipe)
    assert account.forwards == 2 * 2 * 6 and not account.never_called
    restore_model(pipe)
    assert torch.equal(latents(pipe), expected)


def test_an_expert_alone_leaves_the_other_as_it_is():
    rule = {"match": "transformer_2.*", "policy": POOLED}
    pipe = accelerate_model(wan_pipeline(experts=2), Recipe.model_validate({"rules": [rule]}))
    latents(pipe)
    assert [site.site.partition(".")[0] for site in summary(pipe).sites] == ["transformer_2"] * 2
    assert len(summary(pipe).untouched) == 3


def test_two_pipelines_in_two_threads_by_two_recipes():
    sparser = recipe({**POOLED, "select": {"kind": "top_k", "density": 0.2}}, reuse={"steps": 2})
    pipes = [accelerate_model(wan_pipeline(), recipe()), accelerate_model(wan_pipeline(2), sparser)]
    expected = [latents(pipe, steps=4 + 2 * n) for n, pipe in enumerate(pipes)]
    calls = [summary(pipe).calls for pipe in pipes]
    got = [[], []]

    def work(n):
        got[n] += [latents(pipes[n], steps=4 + 2 * n) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, pipe in enumerate(pipes):
        assert len(got[n]) == 3 and all(torch.equal(video, expected[n]) for video in got[n])
        assert summary(pipe).calls == 4 * calls[n] and not summary(pipe).dense_reasons
