"""The one line: what it accepts, replaces, undoes, refuses, and leaves alone."""

import threading

import torch
from pytest import fixture, mark, raises, warns

import accel.apply.patch
import tiny
from accel import accelerate_model, accelerated, restore_model, summary
from accel.accelerate import patches_of
from accel.recipe.errors import RecipeError
from accel.recipe.recipe import Recipe

RECIPE = Recipe.model_validate(
    {"rules": [{"match": "*", "policy": {"method": "radial", "decay": 0.6, "block_size": [16, 16]}}]}
)


class Pipeline:
    """The shape of a Wan 2.2 pipeline: two experts, one scheduler."""

    def __init__(self):
        self.transformer, self.transformer_2 = tiny.wan(), tiny.wan(num_layers=2)
        self.scheduler = None


@fixture
def model():
    return tiny.wan()


@torch.no_grad()
def output(model):
    return model(**tiny.inputs(model))[0]


def hooks(model) -> int:
    return len(model._forward_pre_hooks) + len(model._forward_hooks)


def test_returns_the_same_object(model):
    assert accelerate_model(model, RECIPE) is model
    assert restore_model(model) is model


def test_both_experts_of_a_pipeline_share_one_patch():
    pipe = accelerate_model(Pipeline(), RECIPE)
    names = [site.site for site in summary(pipe).sites]
    assert names[0] == "transformer.blocks.0.attn1" and names[-1] == "transformer_2.blocks.1.attn1"
    assert len(names) == 5 and len(patches_of(pipe)) == 1


def test_an_expert_that_loses_its_acceleration_with_another_is_told_of():
    pipe = Pipeline()
    accelerate_model(pipe, RECIPE)
    with warns(UserWarning, match="no longer accelerated either: transformer, accelerated together"):
        accelerate_model(pipe.transformer_2, RECIPE)
    assert hooks(pipe.transformer) == 0 and hooks(pipe.transformer_2) == 2


def test_one_expert_may_be_missing():
    pipe = Pipeline()
    pipe.transformer = None
    accelerate_model(pipe, RECIPE)
    assert {site.site.split(".")[0] for site in summary(pipe).sites} == {"transformer_2"}


def test_applying_again_replaces(model):
    accelerate_model(model, RECIPE)
    output(model)
    accelerate_model(model, RECIPE, method="dense")
    assert hooks(model) == 2 and summary(model).calls == 0
    output(model)
    assert summary(model).dense_reasons == {"dense by recipe": 3}
    restore_model(model)
    assert hooks(model) == 0


def test_accelerated_restores_even_when_the_block_raises(model):
    expected = output(model)
    with raises(RuntimeError, match="boom"), accelerated(model, RECIPE):
        assert not torch.equal(output(model), expected)
        raise RuntimeError("boom")
    assert torch.equal(output(model), expected) and hooks(model) == 0


def test_an_acceleration_inside_another_gives_it_back(model):
    plain = output(model)
    with accelerated(model, RECIPE):
        expected = output(model)
        with accelerated(model, RECIPE, method="dense"):
            output(model)
            assert summary(model).dense_reasons == {"dense by recipe": 3}
        assert torch.equal(output(model), expected) and not torch.equal(expected, plain)
        assert summary(model).calls == 6 and hooks(model) == 2
    assert torch.equal(output(model), plain) and hooks(model) == 0


@mark.parametrize("fails_at", [0, 1, 4])
def test_a_failure_half_way_leaves_every_model_as_it_was(monkeypatch, fails_at):
    pipe = Pipeline()
    before = [block.attn1.processor for block in (*pipe.transformer.blocks, *pipe.transformer_2.blocks)]
    calls, prepare = [], accel.apply.patch.prepare

    def flaky(*args):
        calls.append(args)
        if len(calls) > fails_at:
            raise KeyboardInterrupt
        return prepare(*args)

    monkeypatch.setattr(accel.apply.patch, "prepare", flaky)
    with raises(KeyboardInterrupt):
        accelerate_model(pipe, RECIPE)
    after = [block.attn1.processor for block in (*pipe.transformer.blocks, *pipe.transformer_2.blocks)]
    assert all(a is b for a, b in zip(after, before, strict=True))
    assert hooks(pipe.transformer) == hooks(pipe.transformer_2) == 0


def test_a_wrong_recipe_leaves_the_previous_one_in_force(model):
    accelerate_model(model, RECIPE)
    with raises(RecipeError):
        accelerate_model(model, RECIPE, decay=7)
    assert summary(model).sites


def test_another_model_in_the_process_never_notices(model):
    bystander = tiny.wan()
    expected = output(bystander)
    accelerate_model(model, RECIPE)
    output(model)
    assert torch.equal(output(bystander), expected)
    assert hooks(bystander) == 0 and not patches_of(bystander)


def test_two_models_with_two_recipes_in_two_threads():
    models = [accelerate_model(tiny.wan(), RECIPE), accelerate_model(tiny.wan(), RECIPE, decay=1.0)]
    expected = [output(model) for model in models]
    got = [[], []]

    def work(n):
        got[n] += [output(models[n]) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(2):
        assert len(got[n]) == 4 and all(torch.equal(out, expected[n]) for out in got[n])


def test_many_cycles_leave_nothing_behind(model):
    expected = output(model)
    for _ in range(200):
        accelerate_model(model, RECIPE)
        restore_model(model)
    assert hooks(model) == 0 and torch.equal(output(model), expected)


def test_a_compiled_model_is_unwrapped(model):
    compiled = torch.compile(model, backend="eager")
    assert accelerate_model(compiled, RECIPE) is compiled
    assert summary(model).sites
    restore_model(compiled)
    assert hooks(model) == 0


def test_steps_without_a_scheduler_are_told_by_noise_level(model):
    accelerate_model(model, RECIPE, dense_steps=0.6)
    output(model)
    assert summary(model).dense_reasons == {"first steps": 3}
    assert summary(model).to_dict()["steps_counted_by"] == "noise level"


@mark.parametrize("thing", [torch.nn.Linear(2, 2), object()], ids=lambda t: type(t).__name__)
def test_what_cannot_be_accelerated_says_what_can(thing):
    with raises(TypeError, match="WanTransformer3DModel"):
        accelerate_model(thing, RECIPE)


def test_summary_of_a_plain_model_says_so(model):
    with raises(ValueError, match="not accelerated"):
        summary(model)


def test_restoring_a_plain_model_does_nothing(model):
    assert restore_model(model) is model


def test_short_sequences_stay_dense_with_that_reason(model):
    accelerate_model(model, RECIPE, min_tokens=10_000)
    output(model)
    assert summary(model).dense_reasons == {"shorter than 10000 tokens": 3}


def test_summary_reads_as_text_and_as_a_dict(model):
    accelerate_model(model, RECIPE, dense_layers=0.3)
    output(model)
    account = summary(model)
    data = account.to_dict()
    assert data["calls"] == 3 and data["dense_reasons"] == {"dense layer": 1}
    assert data["sites"][1]["sparse_calls"] == 1 and 0 < data["sites"][1]["density"] < 1
    assert data["density"] == (1 + 2 * data["sparse_density"]) / 3
    text = str(account)
    assert "dense: 1 calls, dense layer" in text
    rows = [line.split() for line in text.splitlines() if ".attn1" in line]
    assert [row[0] for row in rows] == ["blocks.0.attn1", "blocks.1-2.attn1"]
    assert rows[1][2:4] == ["2", "2"] and rows[0][-3:] == ["dense", "layer", "1"]


@torch.no_grad()
def test_a_model_that_calls_no_site_is_an_error(model):
    accelerate_model(model, RECIPE)
    for block in model.blocks:
        block.attn1.forward = lambda hidden_states, *rest: hidden_states
    with raises(RuntimeError, match="called none of its 3"):
        output(model)


@torch.no_grad()
def test_a_site_that_is_passed_by_is_warned_about(model):
    accelerate_model(model, RECIPE)
    model.blocks[1].attn1.forward = lambda hidden_states, *rest: hidden_states
    with warns(UserWarning, match=r"never called in the first forward: blocks\.1\.attn1"):
        output(model)
    assert summary(model).never_called == ("blocks.1.attn1",)


def test_a_model_that_generated_can_be_trained():
    model = tiny.wan(num_layers=1).requires_grad_(True)
    accelerate_model(model, "auto", min_tokens=0, dense_steps=0, dense_layers=0)
    with torch.inference_mode():
        model(**tiny.inputs(model))
    model(**tiny.inputs(model))[0].sum().backward()
    assert model.patch_embedding.weight.grad is not None
