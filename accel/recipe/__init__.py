"""What a recipe says: its keys, its files, its errors, and which recipe a model gets."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accel.recipe.recipe import Recipe as Recipe
    from accel.recipe.recipe import Rule as Rule


def __getattr__(name: str) -> Any:
    # On request: reading a recipe's errors must not import every method.
    if name in ("Recipe", "Rule"):
        from accel.recipe import recipe

        return getattr(recipe, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
