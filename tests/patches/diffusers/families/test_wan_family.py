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
@mark.parametrize("order", [{"kind": "row_major"}, {"kind": "hilbert"}], ids=lambda order: order["kind"])
def test_skyreels_frames_causal_in_chunks_are_dense_if_every_block_is_kept(order):
    """Chunks of 2 frames of 60 tokens, in blocks of 16: every border is cut."""
    model = tiny.skyreels(num_frame_per_block=2)
    inputs = tiny.inputs(model, frames=6)
    expected = model(**inputs)[0]
    select = {"kind": "top_p", "mass": 1.0}
    everything = {"method": "compose", "order": order, "score": {"kind": "pooled"}, "select": select}
    accelerate_model(model, recipe(**everything, block_size=(32, 16)))
    torch.testing.assert_close(model(**inputs)[0], expected, atol=1e-5, rtol=1e-5)
    assert not summary(model).dense_reasons


@torch.no_grad()
def test_sparse_frames_see_no_later_chunk():
    model = tiny.skyreels(num_frame_per_block=2)
    inputs = tiny.inputs(model, frames=6)
    dense = model(**inputs)[0]
    accelerate_model(model, recipe(**RADIAL))
    sparse = model(**inputs)[0]
    inputs["hidden_states"] = inputs["hidden_states"].clone()
    inputs["hidden_states"][:, :, 4:] += 1
    changed = model(**inputs)[0]
    assert torch.equal(changed[:, :, :4], sparse[:, :, :4])
    assert not torch.equal(changed[:, :, 4:], sparse[:, :, 4:]) and not torch.equal(sparse, dense)
    assert not summary(model).dense_reasons and summary(model).sparse_density < 1


@torch.no_grad()
def test_a_causal_model_called_without_its_mask_stays_dense_with_that_reason(monkeypatch):
    model = tiny.skyreels(num_frame_per_block=2)
    accelerate_model(model, recipe(**RADIAL))
    for block in model.blocks:
        monkeypatch.setattr(block.attn1, "forward", without_mask(block.attn1.forward))
    model(**tiny.inputs(model, frames=6))
    assert summary(model).dense_reasons == {"attention mask": 3}


def without_mask(forward):
    return lambda hidden, text, mask, rotary: forward(hidden, text, None, rotary)
