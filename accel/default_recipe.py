"""The recipe a model gets when none is named."""

from __future__ import annotations

from typing import Any

from torch import nn

from accel.recipe import ModelPattern, Recipe
from accel.recipe_errors import RecipeError
from accel.recipe_files import parse_recipe, shipped_recipes


def default_recipe(model: nn.Module) -> Recipe:
    """The shipped recipe that fits a loaded model best: its class, and the most of its configuration.

    Raises:
        RecipeError: if none was made for the model's class.
    """
    name = default_recipe_name(model)
    return parse_recipe(shipped_recipes()[name], f"{name}.yaml")


def default_recipe_name(model: nn.Module) -> str:
    """The name of that recipe; among equals, the first in alphabetical order."""
    fits = {name: _fit(parse_recipe(text, f"{name}.yaml"), model) for name, text in shipped_recipes().items()}
    best = max(fits, key=lambda name: fits[name], default=None)
    if best is None or fits[best] < 0:
        raise RecipeError(f"no shipped recipe is made for {type(model).__name__}; name one with `recipe=`")
    return best


def _fit(recipe: Recipe, model: nn.Module) -> int:
    """How many configuration values of the recipe the model has; -1 if it is another model."""
    config: Any = getattr(model, "config", {})
    fits = [_pattern_fit(pattern, type(model).__name__, config) for pattern in recipe.models]
    return max(fits, default=-1)


def _pattern_fit(pattern: ModelPattern, class_name: str, config: Any) -> int:
    if pattern.class_name != class_name:
        return -1
    if any(config.get(key) != value for key, value in pattern.config.items()):
        return -1
    return len(pattern.config)
