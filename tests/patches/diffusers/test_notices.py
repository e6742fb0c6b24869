"""What a user sets later is noticed, told once, counted, and left alone by the undo."""

import copy
import warnings
from dataclasses import replace

import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from pytest import fixture, mark, raises, warns

import tiny
from accel import accelerate_model, restore_model, summary
from tiny_families import CASES
from tiny_families import output as case_output
from tiny_wan_pipeline import keep_every_block, latents, recipe, wan_pipeline

REPLACED = "processor replaced since"


@torch.no_grad()
def output(model):
    return model(**tiny.inputs(model))[0]


@fixture
def model():
    return tiny.wan()


@fixture
def active_backend():
    """`set_attention_backend` makes its choice process-wide as well; other tests must not inherit it."""
    active = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry.set_active_backend(active)


def told(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


def test_processors_set_later_are_told_once_counted_and_kept(model):
    expected = output(model)
    accelerate_model(model, recipe())
    model.set_attn_processor(WanAttnProcessor())
    theirs = [block.attn1.processor for block in model.blocks]
    messages = told(lambda: [output(model) for _ in range(3)])
    assert len(messages) == 1
    assert (
        "blocks.0.attn1, blocks.1.attn1, blocks.2.attn1: another processor (WanAttnProcessor)" in messages[0]
    )
    assert torch.equal(output(model), expected)
    account = summary(model)
    assert account.dense_reasons == {REPLACED: 12} and not account.never_called
    assert "replaced by someone else since: blocks.0-2.attn1" in str(account)
    restore_model(model)
    assert all(
        block.attn1.processor is processor for block, processor in zip(model.blocks, theirs, strict=True)
    )


def test_one_replaced_site_leaves_the_others_sparse(model):
    accelerate_model(model, recipe())
    model.blocks[1].attn1.set_processor(WanAttnProcessor())
    with warns(UserWarning, match=r"^blocks\.1\.attn1: another processor"):
        output(model)
    sites = summary(model).sites
    assert [site.sparse_calls for site in sites] == [1, 0, 1]
    assert [site.dense_reasons for site in sites] == [{}, {REPLACED: 1}, {}]
    model.blocks[2].attn1.set_processor(WanAttnProcessor())
    assert len(told(lambda: output(model))) == 1
    assert not told(lambda: output(model))


def test_accelerating_again_takes_stock_processors_over(model):
    accelerate_model(model, recipe())
    model.set_attn_processor(WanAttnProcessor())
    accelerate_model(model, recipe())
    assert not told(lambda: output(model))
    assert summary(model).sparse_density < 1 and not summary(model).dense_reasons


def test_a_pipeline_is_told_once_over_all_steps_and_generations():
    pipe = accelerate_model(wan_pipeline(experts=2), recipe())

    def replace_midway(pipe, step, timestep, tensors):
        if step == 1:
            pipe.transformer.set_attn_processor(WanAttnProcessor())
        return tensors

    def run():
        latents(pipe, callback_on_step_end=replace_midway)
        latents(pipe)

    assert len(told(run)) == 1
    by_site = {site.site: site for site in summary(pipe).sites}
    assert by_site["transformer.blocks.0.attn1"].dense_reasons == {REPLACED: 2 + 2 * 3}
    assert not by_site["transformer_2.blocks.0.attn1"].dense_reasons


def test_processors_that_are_put_back_serve_again(model):
    accelerate_model(model, recipe())
    sparse = output(model)
    ours = dict(model.attn_processors)
    model.set_attn_processor(WanAttnProcessor())
    told(lambda: output(model))
    model.set_attn_processor(ours)
    assert not told(lambda: output(model)) and torch.equal(output(model), sparse)


@mark.usefixtures("active_backend")
def test_a_backend_chosen_later_is_told_once_and_serves_the_dense_calls(model):
    accelerate_model(model, recipe(), dense_layers=0.3)
    model.set_attention_backend("_native_math")
    messages = told(lambda: [output(model) for _ in range(3)])
    assert len(messages) == 1 and "attention backend '_native_math' was chosen after" in messages[0]
    account = summary(model)
    assert account.dense_reasons == {"dense layer": 3} and account.sparse_density < 1
    assert "dense calls run on _native_math" in str(account)
    assert account.to_dict()["dense_backend"] == "_native_math"
    restore_model(model)
    assert {block.attn1.processor._attention_backend for block in model.blocks} == {"_native_math"}


@mark.usefixtures("active_backend")
def test_a_backend_chosen_before_is_nothing_to_tell(model):
    model.set_attention_backend("_native_math")
    expected = output(model)
    keep_every_block(model)
    assert not told(lambda: torch.testing.assert_close(output(model), expected, atol=2e-5, rtol=2e-5))
    assert "dense calls run on" not in str(summary(model))


@mark.parametrize("name", ["cogvideox", "sd3"])
@torch.no_grad()
def test_projections_fused_by_another_processor_are_told_and_can_be_taken_over(name):
    case = CASES[name]
    if name == "sd3":
        # diffusers' fused processor cannot run 3.5's second attention, which has no text.
        case = replace(case, config={**case.config, "dual_attention_layers": ()})
    model = case.model()
    arguments = case.arguments((1, 12, 14) if case.image else (3, 8, 6))
    keep_every_block(model)
    model.fuse_qkv_projections()
    messages = told(lambda: case_output(model, arguments))
    assert len(messages) == 1 and "another processor (Fused" in messages[0]
    restore_model(model)
    expected = case_output(model, arguments)
    keep_every_block(model)
    torch.testing.assert_close(case_output(model, arguments), expected, atol=2e-5, rtol=2e-5)
    assert summary(model).sparse_density == 1
    accelerate_model(model, recipe())
    assert not torch.equal(case_output(model, arguments), expected)
    restore_model(model)
    assert torch.equal(case_output(model, arguments), expected)


class Foreign:
    """A processor that nobody knows."""

    def __call__(self, attn, hidden_states, *rest):
        return hidden_states


def test_a_model_with_nothing_but_foreign_processors_says_so(model):
    model.set_attn_processor(Foreign())
    with raises(ValueError, match="runs Foreign, which cannot be made sparse; set WanAttnProcessor"):
        accelerate_model(model, recipe())


def test_a_copy_tells_on_its_own(model):
    accelerate_model(model, recipe())
    twin = copy.deepcopy(model)
    twin.set_attn_processor(WanAttnProcessor())
    assert len(told(lambda: output(twin))) == 1
    assert not told(lambda: output(model))
