"""Every language model: bit-identical when dense, exact when everything is kept, gone without a trace."""

import copy

import torch
from pytest import fixture, mark

import tiny_language as tiny
from accel import accelerate_model, restore_model, summary
from accel.recipe.recipe import Recipe
from keep_everything import DENSE, keep_everything
from traces import traces as module_traces

HIP = Recipe.model_validate(
    {
        "schedule": {"min_tokens": 0},
        "rules": [
            {
                "match": "*",
                "policy": {"method": "hip", "density": 0.1, "sink": 16, "window": 16, "block_size": [16, 16]},
            }
        ],
    }
)
SPARSE_LAYERS = {"gemma2": 0}
WHY_DENSE = {"gemma2": {"logit softcap": 2}}
WINDOWED = ("gemma3", "gpt-oss")


@fixture(params=tiny.LANGUAGE_MODELS)
def name(request):
    torch.set_num_threads(1)
    return request.param


@fixture
def model(name):
    return tiny.LANGUAGE_MODELS[name]()


@torch.no_grad()
def logits(model, length=150, batch=1):
    return model(tiny.tokens(length, batch)).logits


def traces(model) -> dict:
    """Everything an attribute, a hook, a buffer or a configuration could hide in."""
    state = module_traces(model)
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        state[name, "config"] = copy.deepcopy(vars(config)) if config is not None else None
    return state


@mark.parametrize("batch", [1, 2])
def test_dense_recipe_is_bit_identical(model, batch):
    expected = logits(model, batch=batch)
    accelerate_model(model, DENSE)
    assert torch.equal(logits(model, batch=batch), expected)
    assert summary(model).dense_reasons == {"dense by recipe": 2}


@mark.parametrize("length", [33, 150, 256])
@mark.parametrize("batch", [1, 2])
def test_keeping_every_block_equals_dense(model, name, length, batch):
    expected = logits(model, length, batch)
    keep_everything(model)
    got = logits(model, length, batch)
    if SPARSE_LAYERS.get(name, 2):
        density = summary(model).sparse_density
        assert density == 1 or (name in WINDOWED and 0.5 < density < 1)
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=5e-5)


def test_sparse_drops_blocks_and_says_what_stayed_dense(model, name):
    expected = logits(model)
    accelerate_model(model, HIP)
    got = logits(model)
    account = summary(model)
    assert account.dense_reasons == WHY_DENSE.get(name, {}) and not account.never_called
    assert got.isfinite().all()
    if SPARSE_LAYERS.get(name, 2):
        assert 0 < account.sparse_density < 1 and not torch.allclose(got, expected, atol=1e-3)


def test_restore_is_bit_identical_and_leaves_no_trace(model):
    expected, before = logits(model), traces(model)
    accelerate_model(model, HIP)
    logits(model)
    restore_model(model)
    assert torch.equal(logits(model), expected)
    assert traces(model) == before


def test_vision_tower_keeps_its_implementation():
    model = tiny.qwen25_vl()
    accelerate_model(model, HIP)
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert all("language_model" in site.site for site in summary(model).sites)
    restore_model(model)
    assert model.config.text_config._attn_implementation == "sdpa"
