"""Recipe files: read, check and find the recipes that are shipped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from os import PathLike
from os.path import exists
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from accel.policies.policy import Policy
from accel.policies.registry import policy_names
from accel.recipe.errors import RecipeError, explain, nearest
from accel.recipe.recipe import Recipe, recipe_schema
from accel.recipe.yaml_text import parse_yaml, require_small

MAX_BYTES = 64 * 1024


@cache
def shipped_recipes() -> dict[str, str]:
    """The text of every shipped recipe by name."""
    folder = files("accel.recipes")
    found = {
        item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")
    }
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


@cache
def shipped_data(name: str) -> dict[str, Any]:
    """What the file of a shipped recipe says, as plain data, bases not read; for reading only."""
    return parse_yaml(shipped_recipes()[name], f"{name}.yaml")


def as_recipe(recipe: Recipe | Policy | Mapping[str, Any] | str | Path) -> Recipe:
    """The recipe given by a name, a path, a mapping such as a YAML file holds, or a method alone.

    Raises:
        RecipeError: if it is something else, or has a mistake; says where and what is valid.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Policy) or (isinstance(recipe, type) and issubclass(recipe, Policy)):
        return build_recipe({"rules": [{"match": "*", "policy": recipe}]}, "recipe")
    return build_recipe(recipe, "recipe") if isinstance(recipe, Mapping) else load_recipe(recipe)


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A shipped recipe by name, or one from a YAML file.

    Raises:
        RecipeError: if the recipe does not exist, or has a mistake; says where and what is valid.
    """
    text, source = recipe_text(name_or_path)
    return parse_recipe(text, source)


def recipe_text(name_or_path: str | Path) -> tuple[str, str]:
    """The YAML of a recipe, and the name that errors show."""
    if not isinstance(name_or_path, str | PathLike):
        raise RecipeError(
            "a recipe is a Recipe, a Policy, a mapping, the name of a shipped one or the path of a YAML file,"
            f" got {type(name_or_path).__name__}"
        )
    path = Path(name_or_path)
    shipped = shipped_recipes()
    if path.suffix.lower() in (".yaml", ".yml"):
        if path.stem in shipped and not exists(path):
            raise RecipeError(
                f"{path}: no such file; the shipped recipe is called {path.stem!r}, without .yaml"
            )
        return _read(path), str(name_or_path)
    name = str(name_or_path)
    if name in shipped:
        return shipped[name], f"{name}.yaml"
    if name.strip() and (len(path.parts) > 1 or exists(path)):
        raise RecipeError(f"{name}: a recipe file ends in .yaml; shipped recipes go by their name alone")
    if name in policy_names():
        raise RecipeError(
            f"{name!r} is a method, not a shipped recipe: name it in a recipe, such as "
            f"{{rules: [{{match: '*', policy: {{method: {name}}}}}]}}"
        )
    raise RecipeError(
        f"no shipped recipe is called {name!r}; {nearest(name, shipped)} A file must end in .yaml."
    )


def _read(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise RecipeError(f"{path}: is a folder or a device, not a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_BYTES} bytes; a recipe is a short text")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text") from error


def parse_recipe(text: str, source: str) -> Recipe:
    """A recipe from YAML text; `source` is what errors call it."""
    return build_recipe(parse_yaml(text, source), source)


def build_recipe(data: Any, source: str) -> Recipe:
    """A recipe from plain data, for example the mapping a YAML file holds; a method in it may be an object.

    Raises:
        RecipeError: if it has a mistake; says where and what is valid. `source` is what it calls the data.
    """
    if not isinstance(data, Mapping):
        raise RecipeError(f"{source}: a recipe is a mapping with the key `rules`, got {type(data).__name__}")
    require_small(data, source)
    given = with_base(_plain(data), source)
    try:
        return Recipe.model_validate(given)
    except ValidationError as error:
        raise explain(error, source, recipe_schema()) from None


def _plain(data: Any) -> Any:
    """The data with a dict for every mapping."""
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(each) for each in data] if isinstance(data, list | tuple) else data


def with_base(data: dict[str, Any], source: str) -> dict[str, Any]:
    """The data, completed by its `base`, a shipped recipe.

    Of mappings such as `schedule` single keys are taken over, unless they are of another `kind`, rules only
    as a whole, and never the models that the base was made for.
    """
    if "base" not in data:
        return data
    name = data.pop("base")
    if not isinstance(name, str) or name not in shipped_recipes():
        hint = nearest(name, shipped_recipes())
        raise RecipeError(f"{source}: base: no shipped recipe is called {name!r}; {hint}")
    base = with_base(dict(shipped_data(name)), f"{name}.yaml")
    base.pop("models", None)
    for key, value in data.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            # Another kind has other keys.
            alike = value.get("kind", old.get("kind")) == old.get("kind")
            value = {**old, **value} if alike else value
        base[key] = value
    return base


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, every default written out."""
    data = recipe.model_dump(mode="json")
    data["rules"] = [
        {key: value for key, value in rule.items() if value is not None} for rule in data["rules"]
    ]
    return data
