"""Text, sound and references of a packed sequence attend as in the dense model while the video is sparse."""

import torch
from pytest import mark

from accel import accelerate_model, summary
from accel.recipe.recipe import Recipe
from tiny_families import CASES

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
    for exact, got in ((sound, sparse_sound), (video[:, :references], sparse_video[:, :references])):
        torch.testing.assert_close(got, exact, atol=2e-6, rtol=2e-6)
    assert not torch.allclose(sparse_video, video, atol=1e-3)
