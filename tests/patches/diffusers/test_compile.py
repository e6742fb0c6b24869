"""torch.compile: one graph for all layers and steps, and no recompilation when dense turns sparse."""

from importlib import import_module

import torch
from diffusers import FirstBlockCacheConfig
from pytest import mark, raises
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import tiny
from accel import accelerate_model, restore_model, summary
from accel.recipe.recipe import Recipe
from tiny_wan_pipeline import keep_every_block, latents, recipe, wan_pipeline

RECIPE = Recipe.model_validate(
    {
        "schedule": {"dense_steps": 0.3},
        "rules": [{"match": "*", "policy": {"method": "radial", "decay": 0.6, "block_size": [16, 16]}}],
    }
)


def denoise(model, steps=12):
    outputs = []
    for step in range(steps):
        inputs = {**tiny.inputs(model), "timestep": torch.full((1,), 1000.0 - 80 * step)}
        outputs.append(model(**inputs)[0])
    return outputs


@torch.no_grad()
def test_twelve_layers_and_twelve_steps_are_one_graph():
    torch._dynamo.reset()
    counters.clear()
    model = accelerate_model(tiny.wan(num_layers=12), RECIPE)
    expected = denoise(model)
    graphs = CompileCounter()
    model.compile_repeated_blocks(fullgraph=True, backend=graphs)
    got = denoise(model)
    assert graphs.frame_count == 1 and not counters["graph_break"]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    account = summary(model)
    assert account.calls == 2 * 12 * 12 and set(account.dense_reasons) == {"first steps"}


@torch.no_grad()
def test_restore_after_compilation_takes_effect():
    torch._dynamo.reset()
    model = tiny.wan(num_layers=2)
    expected = denoise(model, steps=2)
    accelerate_model(model, RECIPE, dense_steps=0)
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    sparse = denoise(model, steps=2)
    restore_model(model)
    restored = denoise(model, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(restored, expected, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(sparse, expected, strict=True))


@torch.no_grad()
def test_whole_model_compilation_keeps_the_counts():
    torch._dynamo.reset()
    model = accelerate_model(tiny.wan(num_layers=2), RECIPE, dense_steps=0)
    expected = denoise(model, steps=2)
    compiled = torch.compile(model, backend="eager")
    got = denoise(compiled, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert summary(compiled).calls == 8


@torch.no_grad()
def test_one_graph_of_a_whole_model_is_refused_in_a_sentence():
    torch._dynamo.reset()
    counters.clear()
    model, graphs = accelerate_model(tiny.wan(num_layers=2), RECIPE, dense_steps=0), CompileCounter()
    (expected,) = denoise(model, steps=1)
    with raises(Unsupported, match="compile_repeated_blocks\\(fullgraph=True\\)"):
        denoise(torch.compile(model, fullgraph=True, backend=graphs), steps=1)
    torch._dynamo.reset()
    (got,) = denoise(torch.compile(model, backend=graphs), steps=1)
    assert torch.equal(got, expected) and graphs.frame_count == 1


@mark.parametrize("first", ["compile", "accelerate"])
@torch.no_grad()
def test_a_whole_model_compiled_in_place_before_or_after(first):
    torch._dynamo.reset()
    model, graphs = tiny.wan(num_layers=2), CompileCounter()
    expected = denoise(model, steps=2)
    if first == "compile":
        model.compile(backend=graphs)
        denoise(model, steps=1)
    keep_every_block(model)
    if first == "accelerate":
        model.compile(backend=graphs)
    for got, dense in zip(denoise(model, steps=2), expected, strict=True):
        torch.testing.assert_close(got, dense, atol=2e-5, rtol=2e-5)
    assert summary(model).sparse_density == 1 and summary(model).calls == 4
    restore_model(model)
    assert all(torch.equal(a, b) for a, b in zip(denoise(model, steps=2), expected, strict=True))
    assert graphs.frame_count


@torch.no_grad()
def test_other_sizes_take_as_many_graphs_as_the_stock_model():
    counts = []
    for accelerate in (False, True):
        torch._dynamo.reset()
        model, graphs = tiny.wan(num_layers=1), CompileCounter()
        if accelerate:
            accelerate_model(model, recipe())
        sizes = [tiny.inputs(model, width=width) for width in (20, 24, 28)]
        expected = [model(**inputs)[0] for inputs in sizes]
        model.compile_repeated_blocks(fullgraph=True, backend=graphs)
        for inputs, eager in zip(sizes, expected, strict=True):
            torch.testing.assert_close(model(**inputs)[0], eager, atol=2e-5, rtol=2e-5)
        counts.append(graphs.frame_count)
    assert counts == [2, 2]


def offload(pipe):
    pipe.transformer.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")


def cache(pipe):
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))


@mark.parametrize("treat", [offload, cache], ids=lambda treat: treat.__name__)
def test_compiled_blocks_with_hooks_of_diffusers(treat):
    torch._dynamo.reset()
    pipe = wan_pipeline()
    treat(pipe)
    pipe.transformer.compile_repeated_blocks(backend="eager")
    expected = latents(pipe, steps=3, guidance_scale=1.0)
    keep_every_block(pipe)
    torch.testing.assert_close(latents(pipe, steps=3, guidance_scale=1.0), expected, atol=1e-4, rtol=1e-4)
    account = summary(pipe)
    assert account.sparse_density == 1 and not account.never_called
    assert (account.calls < 3 * 3) == (treat is cache)


@mark.parametrize("name", ["attend", "attend_sequence"])
def test_cuda_graphs_are_recorded_around_attention(name):
    import_module("accel.patches.transformers.slot")
    operator = getattr(torch.ops.sparse_accel, name).default
    assert torch.Tag.cudagraph_unsafe in operator.tags
