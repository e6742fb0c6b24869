"""Under autocast attention runs in its type, dense calls are stock, and blocks are chosen as without it."""

import torch
from pytest import fixture, mark

import tiny
import tiny_language
from accel import accelerate_model, summary
from accel.accelerate import patches_of
from accel.recipe.recipe import Recipe

VIDEO = {"method": "draft", "region": [2, 2], "block_size": [16, 16]}
TEXT = {"method": "permuted", "segment": 32, "block_size": [32, 32]}


def video():
    model = tiny.wan(num_layers=2)
    return model, VIDEO, tiny.inputs(model)


def text():
    model = tiny_language.llama()
    return model, TEXT, {"input_ids": tiny_language.tokens(150), "use_cache": False}


@fixture(params=[video, text], ids=lambda kind: kind.__name__)
def case(request):
    return request.param()


@torch.no_grad()
def output(model, inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(**inputs)[0]


def recipe(**policy) -> Recipe:
    rules = [{"match": "*", "policy": policy}]
    return Recipe.model_validate({"schedule": {"min_tokens": 0}, "rules": rules})


def test_dense_calls_are_stock(case):
    model, _, inputs = case
    expected = output(model, inputs)
    assert torch.equal(output(accelerate_model(model, recipe(method="dense")), inputs), expected)


def test_sparse_calls_run_in_its_type_and_choose_outside_it(case, monkeypatch):
    model, policy, inputs = case
    expected = output(model, inputs)
    accelerate_model(model, recipe(**policy))
    chosen = type(patches_of(model)[0].installed[0].attention.policy)
    seen = []

    def layout(self, q, k, grid, context, original=chosen.layout):
        seen.append((q.dtype, torch.is_autocast_enabled("cpu")))
        return original(self, q, k, grid, context)

    monkeypatch.setattr(chosen, "layout", layout)
    got = output(model, inputs)
    assert set(seen) == {(torch.bfloat16, False)}
    assert got.dtype == expected.dtype and not summary(model).dense_reasons
    assert (got - expected).norm() < 0.5 * expected.norm()


class InFloat32(torch.nn.Module):
    """A norm as autocast runs it on a GPU."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, tokens):
        return self.norm(tokens).float()


def test_compiled_code_runs_in_its_type_where_norms_do_not():
    model, policy, inputs = video()
    for block in model.blocks:
        block.attn1.norm_q, block.attn1.norm_k = InFloat32(block.attn1.norm_q), InFloat32(block.attn1.norm_k)
    accelerate_model(model, recipe(**policy), dense_layers=0.5)
    eager = output(model, inputs)
    torch._dynamo.reset()
    model.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    assert torch.equal(output(model, inputs), eager)
    assert summary(model).calls == 4


@mark.parametrize("kind", [video], ids=["video"])
def test_compiled_code_chooses_the_same_blocks(kind):
    model, policy, inputs = kind()
    accelerate_model(model, recipe(**policy))
    eager, density = output(model, inputs), summary(model).density
    assert torch.equal(output(torch.compile(model, backend="aot_eager"), inputs), eager)
    assert summary(model).density == density
