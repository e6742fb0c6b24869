"""Tokens permuted once for each forward: the same result as permuting them in every call."""

import copy
import pickle

import torch
from pytest import mark, raises

import tiny
from accel import accelerate_model, restore_model, summary
from accel.kernels.layout.order import TokenOrder
from accel.recipe.errors import RecipeError
from accel.recipe.recipe import Recipe
from traces import traces

TILE = {"kind": "tile", "size": [2, 2, 4]}
HILBERT = {"kind": "hilbert"}
BLOCKS = [16, 16]
POOLED = {
    "method": "compose",
    "score": {"kind": "pooled"},
    "select": {"kind": "top_k", "density": 0.4},
    "block_size": BLOCKS,
}


def recipe(*policies: dict, **rest) -> Recipe:
    rules = [{"match": f"blocks.{n}.*" if n else "*", "policy": policy} for n, policy in enumerate(policies)]
    return Recipe.model_validate({"rules": rules[1:] + rules[:1], **rest})


def both_ways(model, inputs, *policies):
    accelerate_model(model, recipe(*policies))
    each_call = model(**inputs)[0]
    accelerate_model(model, recipe(*policies, permute_once=True))
    once = model(**inputs)[0]
    assert summary(model).sparse_density < 1
    return once, each_call


@mark.parametrize("order", [TILE, HILBERT, {"kind": "axes", "axes": "whf"}], ids=lambda o: o["kind"])
@mark.parametrize("shape", [(5, 12, 20), (3, 20, 12), (1, 16, 18)], ids=str)
@torch.no_grad()
def test_once_equals_in_every_call(order, shape):
    model = tiny.wan()
    once, each_call = both_ways(model, tiny.inputs(model, *shape, batch=2), {**POOLED, "order": order})
    torch.testing.assert_close(once, each_call, atol=2e-5, rtol=2e-5)


@mark.parametrize(
    "policy",
    [
        {"method": "hip", "density": 0.3, "order": HILBERT, "block_size": BLOCKS},
        {"method": "permuted", "segment": None, "probes": 16, "order": TILE, "block_size": BLOCKS,
         "select": {"kind": "top_k", "density": 0.4}},
        {**POOLED, "order": TILE, "tail": True},
    ],
    ids=["hip", "permuted", "tail"],
)  # fmt: skip
@torch.no_grad()
def test_every_method_with_an_order(policy):
    model = tiny.wan()
    once, each_call = both_ways(model, tiny.inputs(model), policy)
    torch.testing.assert_close(once, each_call, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_dense_layers_do_not_mind_the_order():
    model = tiny.wan()
    inputs = tiny.inputs(model)
    expected = model(**inputs)[0]
    accelerate_model(model, recipe({**POOLED, "order": TILE}, permute_once=True), dense_layers=1.0)
    torch.testing.assert_close(model(**inputs)[0], expected, atol=2e-5, rtol=2e-5)
    assert summary(model).sparse_density is None


@torch.no_grad()
def test_a_timestep_for_every_token():
    model = tiny.wan()
    inputs = tiny.inputs(model)
    tokens = 5 * 6 * 10
    inputs["timestep"] = torch.linspace(0, 900, tokens)[None]
    once, each_call = both_ways(model, inputs, {**POOLED, "order": TILE})
    torch.testing.assert_close(once, each_call, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_undo_copies_and_pickles():
    model = tiny.wan()
    inputs = tiny.inputs(model)
    before, expected = traces(model), model(**inputs)[0]
    accelerate_model(model, recipe({**POOLED, "order": TILE}, permute_once=True))
    got = model(**inputs)[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        restore_model(model)
        assert torch.equal(other(**inputs)[0], got)
        assert torch.equal(restore_model(other)(**inputs)[0], expected)
    assert traces(model) == before
    assert torch.equal(model(**inputs)[0], expected)


@torch.no_grad()
def test_repeated_blocks_still_compile_to_one_graph():
    model = tiny.wan()
    inputs = tiny.inputs(model)
    accelerate_model(model, recipe({**POOLED, "order": TILE}, permute_once=True))
    expected = model(**inputs)[0]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(model(**inputs)[0], expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@mark.parametrize(
    ("policies", "said"),
    [
        (({**POOLED, "order": TILE}, {**POOLED, "order": HILBERT}), "all rules must have one order"),
        (({"method": "radial"},), "'radial' has no order"),
    ],
    ids=["two orders", "no order"],
)
def test_refused_unless_all_rules_have_one_order(policies, said):
    model = tiny.wan()
    before = traces(model)
    with raises(RecipeError, match=said):
        accelerate_model(model, recipe(*policies, permute_once=True))
    assert traces(model) == before


def test_refused_on_a_model_whose_tokens_cannot_be_reached():
    with raises(RecipeError, match="not of WanVACETransformer3DModel"):
        accelerate_model(tiny.vace(), recipe({**POOLED, "order": TILE}, permute_once=True))


@torch.no_grad()
def test_no_call_permutes_its_own(monkeypatch):
    def never(self, tokens):
        raise AssertionError("an attention call permuted its tokens")

    once = accelerate_model(tiny.wan(), recipe({**POOLED, "order": TILE}, permute_once=True))
    each = accelerate_model(tiny.wan(), recipe({**POOLED, "order": TILE}))
    monkeypatch.setattr(TokenOrder, "permute", never)
    monkeypatch.setattr(TokenOrder, "restore", never)
    once(**tiny.inputs(once))
    with raises(AssertionError, match="permuted its tokens"):
        each(**tiny.inputs(each))


def test_a_model_that_generated_can_be_trained():
    model = tiny.wan(num_layers=1).requires_grad_(True)
    accelerate_model(
        model, recipe({**POOLED, "order": {"kind": "tile", "size": [3, 2, 5]}}, permute_once=True)
    )
    with torch.inference_mode():
        model(**tiny.inputs(model))
    model(**tiny.inputs(model))[0].sum().backward()
    assert model.patch_embedding.weight.grad is not None
