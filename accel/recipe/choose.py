"""The recipe a model gets when the user does not name one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from accel.patches.class_names import known_name
from accel.patches.models import is_language_model
from accel.recipe.errors import RecipeError
from accel.recipe.files import load_recipe, shipped_data, shipped_recipes
from accel.recipe.recipe import ModelPattern, Recipe

LANGUAGE_MODELS = "llm-wanted"


def default_recipe(models: Mapping[str, nn.Module]) -> Recipe:
    """The shipped recipe that fits a pipeline's models best: their class, and most of their configuration.

    Raises:
        RecipeError: if no recipe was made for the class.
    """
    return load_recipe(default_recipe_name(models))


def default_recipe_name(models: Mapping[str, nn.Module]) -> str:
    """The name of that recipe; among equals, the first in alphabetical order. Language models share one."""
    model = next(iter(models.values()))
    fits = {name: _fit(name, model, len(models)) for name in shipped_recipes()}
    best = max(fits, key=lambda name: fits[name], default=None)
    if best is None or fits[best] < 0:
        if is_language_model(model):
            return LANGUAGE_MODELS
        raise RecipeError(f"no shipped recipe is made for {type(model).__name__}; name one with `recipe=`")
    return best


def _fit(name: str, model: nn.Module, experts: int) -> int:
    """How much of a shipped recipe's model description fits this model; -1 if it is another model."""
    config: Any = getattr(model, "config", {})
    patterns = [ModelPattern(**pattern) for pattern in shipped_data(name).get("models", ())]
    nearest = known_name(model, {pattern.class_name for pattern in patterns})
    fits = [
        len(pattern.config) + (pattern.experts == experts)
        for pattern in patterns
        if pattern.class_name == nearest
        and all(config.get(key) == value for key, value in pattern.config.items())
    ]
    return max(fits, default=-1)
