"""A table of densities by layer: each site gets its own, and a table of another model is refused."""

from pytest import approx, raises

import tiny
from accel import accelerate_model, summary
from accel.recipe.errors import RecipeError
from tiny_wan_pipeline import latents, recipe, wan_pipeline


def by_layer(*densities):
    select = {"kind": "top_k", "density": 0.5, "budget": "layer", "layer_density": list(densities)}
    policy = {"method": "compose", "score": {"kind": "pooled"}, "select": select, "block_size": [16, 16]}
    return recipe(policy)


def test_every_layer_runs_at_its_own_density():
    pipe = accelerate_model(wan_pipeline(), by_layer(0.8, 0.3, 0.5))
    latents(pipe, steps=2)
    assert [site.density for site in summary(pipe).sites] == approx([0.8, 0.3, 0.5], abs=0.02)


def test_a_table_of_another_model_is_refused_before_anything_is_touched():
    model = tiny.wan()
    with raises(RecipeError, match=r"rules.0..policy: layer_density has 2 entries.* 3 layers"):
        accelerate_model(model, by_layer(0.8, 0.3))
    assert not model._forward_pre_hooks
