"""Every Wan-family class: exact when everything is kept, sparse when not, gone without a trace."""

import torch
from pytest import fixture, mark

import tiny
from accel import accelerate_model, restore_model, summary
from accel.accelerate import patches_of
from accel.recipe.recipe import Recipe
from keep_everything import KeepEverything
from traces import traces

RADIAL = {"method": "radial", "decay": 1.0, "block_size": [16, 16]}


def recipe(**policy) -> Recipe:
    return Recipe.model_validate({"rules": [{"match": "*", "policy": policy}]})


@fixture(params=tiny.WAN_FAMILY)
def model(request):
    return tiny.WAN_FAMILY[request.param]()


@mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_dense_recipe_is_bit_identical(model, batch):
    inputs = tiny.inputs(model, batch=batch)
    expected = model(**inputs)[0]
    accelerate_model(model, recipe(method="dense"))
    assert torch.equal(model(**inputs)[0], expected)


@mark.parametrize("shape", [(5, 12, 20), (3, 20, 12), (1, 16, 16), (7, 6, 14)], ids=str)
@mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_keeping_every_block_equals_dense(model, shape, batch):
    inputs = tiny.inputs(model, *shape, batch)
    expected = model(**inputs)[0]
    accelerate_model(model, recipe(method="dense"))
    for one in patches_of(model)[0].installed:
        one.attention.policy = KeepEverything()
    got = model(**inputs)[0]
    assert summary(model).sparse_density == 1
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_sparse_runs_and_drops_blocks(model):
    inputs = tiny.inputs(model, batch=2)
    expected = model(**inputs)[0]
    accelerate_model(model, recipe(**{**RADIAL, "decay": 0.3}))
    got = model(**inputs)[0]
    account = summary(model)
    assert 0 < account.density < 1 and not account.dense_reasons and not account.never_called
    assert got.isfinite().all() and not torch.equal(got, expected)


@torch.no_grad()
def test_restore_is_bit_identical_and_leaves_no_trace(model):
    inputs = tiny.inputs(model)
    expected, before = model(**inputs)[0], traces(model)
    accelerate_model(model, recipe(**RADIAL))
    model(**inputs)
    restore_model(model)
    assert torch.equal(model(**inputs)[0], expected)
    assert traces(model) == before


@torch.no_grad()
def test_skyreels_causal_mask_stays_dense_with_that_reason():
    model = tiny.skyreels(num_frame_per_block=5)
    inputs = tiny.inputs(model)
    expected = model(**inputs)[0]
    accelerate_model(model, recipe(**RADIAL))
    assert torch.equal(model(**inputs)[0], expected)
    assert summary(model).dense_reasons == {"attention mask": 3}
