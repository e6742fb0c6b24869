"""Sharpness: sparse calls have another softmax scale, dense ones do not; refused where it means nothing."""

import torch
from pytest import mark, raises

import tiny
import tiny_language
from accel import accelerate_model, summary
from accel.accelerate import patches_of
from accel.recipe.errors import RecipeError
from accel.recipe.recipe import Recipe
from keep_everything import KeepEverything


def recipe(**changes) -> Recipe:
    rule = {"match": "*", "sharpness": 1.5, "policy": {"method": "radial"}}
    return Recipe.model_validate({"rules": [rule], **changes})


@torch.no_grad()
def test_logits_of_sparse_calls_are_multiplied():
    model, sharper = tiny.wan(), tiny.wan()
    for block in sharper.blocks:
        block.attn1.norm_q.weight.mul_(1.5)
    inputs = tiny.inputs(model)
    usual, expected = model(**inputs)[0], sharper(**inputs)[0]
    accelerate_model(model, recipe())
    for one in patches_of(model)[0].installed:
        one.attention.policy = KeepEverything()
    torch.testing.assert_close(model(**inputs)[0], expected, atol=2e-5, rtol=2e-5)
    assert not summary(model).dense_reasons and (usual - expected).abs().max() > 1e-3
    accelerate_model(model, recipe(schedule={"dense_steps": 1.0}))
    assert torch.equal(model(**inputs)[0], usual)


@mark.parametrize(("sharpness", "why"), [(0, "greater than 0"), (True, "number"), (11, "less than or equal")])
def test_nonsense_is_refused(sharpness, why):
    with raises(RecipeError, match=why):
        accelerate_model(
            tiny.wan(), {"rules": [{"match": "*", "sharpness": sharpness, "policy": {"method": "dense"}}]}
        )


def test_it_is_refused_for_text():
    text = {"rules": [{"match": "*", "sharpness": 1.5, "policy": {"method": "hip"}}]}
    with raises(RecipeError, match=r"rules\[0\]\.sharpness: is for diffusion models"):
        accelerate_model(tiny_language.llama(), text)
