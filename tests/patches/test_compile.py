"""torch.compile: one graph for all layers and steps, and no recompilation when dense turns sparse."""

import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import tiny
from accel import accelerate_model, restore_model, summary
from accel.recipe import Recipe

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
