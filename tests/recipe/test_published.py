"""published_recipe: plans in the form other projects publish become recipes, head by head."""

import json

import pytest
import torch

from accel.patches.context import Context
from accel.recipe.errors import RecipeError
from accel.recipe.published import published_recipe

MINFERENCE = [
    {"0": ["vertical_and_slash", 30, 800, 0.99], "1": ["stream_llm", 128, 64, 1.0]},
    {"0": ["stream_llm", 128, 64, 1.0], "1": ["vertical_and_slash", 3500, 100, 0.67]},
]
MOA = {"alphas": [[0.0, -64.0]], "betas": [[0.5, 0.75]]}


def write(tmp_path, plan):
    path = tmp_path / "plan.json"
    path.write_text(plan if isinstance(plan, str) else json.dumps(plan))
    return path


def mask(recipe, layer, tokens):
    q = torch.randn(1, 2, tokens, 8, generator=torch.Generator().manual_seed(0))
    policy = recipe.rules[0].policy
    layers = len(policy.choose.parts[0].heads)
    return policy.layout(q, q, None, Context(layer=layer, n_layers=layers)).to_mask()[0]


def test_minference_s_patterns_by_layer_and_head(tmp_path):
    recipe = published_recipe(write(tmp_path, MINFERENCE))
    policy = recipe.rules[0].policy
    assert policy.choose.parts[0].heads == ((0, 1), (1, 2))
    chosen = [
        (one.choose.verticals, one.choose.slashes) for one in (policy.candidates[0], policy.candidates[2])
    ]
    assert chosen == [(30, 800), (3500, 100)]
    streaming = mask(recipe, 0, 640)[1]
    assert streaming[639, :128].all() and not streaming[639, 128:512].any() and streaming[639, 576:].all()
    assert torch.equal(mask(recipe, 1, 640)[0], streaming)


def test_moa_s_spans_grow_with_the_text(tmp_path):
    """At 640 tokens: 320 for head 0, and 480 - 64 = 416 for head 1, beside the first 64."""
    spans = mask(published_recipe(write(tmp_path, MOA)), 0, 640)
    assert spans[0, 639].nonzero().flatten().tolist() == [*range(64), *range(256, 640)]
    assert spans[1, 639].nonzero().flatten().tolist() == [*range(64), *range(128, 640)]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("{", "not JSON"),
        ({"alphas": [[0.0]]}, "expected MInference's list of layers, or MoA's alphas and betas"),
        ({"alphas": [[0.0]], "betas": [[0.5, 0.5]]}, "must be numbers by layer and head"),
        ({"alphas": [[-5.0]], "betas": [[0.0]]}, "recent must be at least 0 without recent_share"),
        (
            [{"0": ["block", 1, 2, 3]}],
            r"\[0\]: head 0: expected 'vertical_and_slash' or 'stream_llm', got 'block'",
        ),
        ([{"1": ["stream_llm", 1, 2]}], r"\[0\]: head 0 needs a pattern and two numbers, got None"),
    ],
)
def test_other_files_are_refused_with_the_place(tmp_path, plan, message):
    with pytest.raises(RecipeError, match=message):
        published_recipe(write(tmp_path, plan))


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        published_recipe(tmp_path / "none.json")
