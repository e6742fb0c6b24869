"""Text, sound and references attend as in the dense model under a sparse video; hidden text is not read."""

import torch
from pytest import mark

from accel import accelerate_model, summary
from accel.recipe.recipe import Recipe
from tiny_families import CASES, TEXT

SIZE = (3, 8, 9)
METHODS = {
    "radial": {"method": "radial", "decay": 0.3, "block_size": [16, 16]},
    "draft": {"method": "draft", "density": 0.3, "block_size": [16, 16]},
    "compose": {
        "method": "compose",
        "score": {"kind": "strided", "query": 8, "key": 8},
        "select": {"kind": "top_k", "density": 0.3, "budget": "layer", "row_density": 0.15},
        "block_size": [16, 16],
    },
}


@mark.parametrize("name", ["minimax-h3", "minimax-h3-keyframe"])
@mark.parametrize("method", METHODS)
@torch.no_grad()
def test_sound_is_that_of_the_dense_model_after_one_sparse_layer(name, method):
    case = CASES[name]
    model, arguments = case.model(num_layers=1), case.arguments(SIZE)
    video, sound = model(**arguments)
    recipe = {"schedule": {"min_tokens": 0}, "rules": [{"match": "*", "policy": METHODS[method]}]}
    accelerate_model(model, Recipe.model_validate(recipe), dense_steps=0, dense_layers=0)
    sparse_video, sparse_sound = model(**arguments)
    assert summary(model).sparse_density < 0.9 and not summary(model).dense_reasons
    references = len(arguments["video_indices"]) - 3 * 8 * 9
    assert torch.equal(sparse_sound, sound)
    assert torch.equal(sparse_video[:, :references], video[:, :references])
    assert not torch.allclose(sparse_video, video, atol=1e-3)


@torch.no_grad()
def test_a_reference_image_is_that_of_the_dense_model_after_one_sparse_layer():
    case = CASES["qwen-image-edit"]
    model, arguments = case.model(num_layers=1), case.arguments((1, 8, 9), batch=2)
    (dense,) = model(**arguments)
    recipe = {"schedule": {"min_tokens": 0}, "rules": [{"match": "*", "policy": METHODS["compose"]}]}
    accelerate_model(model, Recipe.model_validate(recipe), dense_steps=0, dense_layers=0)
    (sparse,) = model(**arguments)
    assert summary(model).sparse_density < 0.9 and not summary(model).dense_reasons
    torch.testing.assert_close(sparse[:, 72:], dense[:, 72:], atol=2e-6, rtol=2e-6)
    assert not torch.allclose(sparse[:, :72], dense[:, :72], atol=1e-3)


@torch.no_grad()
def test_text_hidden_in_the_middle_is_not_read():
    """Padding between prompt and template, as Krea 2 has it, another hole for each sample."""
    case = CASES["krea2"]
    model, arguments = case.model(), case.arguments((1, 8, 9), batch=2)
    mask = torch.ones(2, TEXT, dtype=torch.bool)
    mask[0, 5:9] = mask[1, 2:16] = False
    arguments["encoder_attention_mask"] = mask
    expected = model(**arguments)[0]
    everything = {"method": "compose", "score": {"kind": "pooled"}, "block_size": [16, 16]}
    everything["select"] = {"kind": "top_p", "mass": 1.0}
    recipe = {"schedule": {"min_tokens": 0}, "rules": [{"match": "*", "policy": everything}]}
    accelerate_model(model, Recipe.model_validate(recipe), dense_steps=0, dense_layers=0)
    torch.testing.assert_close(model(**arguments)[0], expected, atol=1e-5, rtol=1e-5)
    assert not summary(model).dense_reasons
    text = arguments["encoder_hidden_states"]
    before = model(**arguments)[0]
    arguments["encoder_hidden_states"] = text + 100 * ~mask[:, :, None, None]
    assert torch.equal(model(**arguments)[0], before)
