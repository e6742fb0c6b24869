"""Recipe files: read, check and find the recipes that are shipped."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from accel.recipe import Recipe
from accel.recipe_errors import RecipeError, explain, nearest

MAX_BYTES = 64 * 1024


def shipped_recipes() -> dict[str, str]:
    """The text of every shipped recipe by name."""
    folder = files("accel.recipes")
    found = {
        item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")
    }
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A shipped recipe by name, or one from a YAML file.

    Raises:
        RecipeError: if there is no such recipe, or it has a mistake; says where and what is valid.
    """
    text, source = recipe_text(name_or_path)
    return parse_recipe(text, source)


def recipe_text(name_or_path: str | Path) -> tuple[str, str]:
    """The YAML of a recipe, and the name that errors show."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return _read(path), str(name_or_path)
    shipped = shipped_recipes()
    if str(name_or_path) not in shipped:
        hint = nearest(name_or_path, shipped)
        raise RecipeError(
            f"no shipped recipe is called {str(name_or_path)!r}; {hint} A file must end in .yaml."
        )
    return shipped[str(name_or_path)], f"{name_or_path}.yaml"


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_BYTES} bytes; a recipe is a short text")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text") from error


def parse_recipe(text: str, source: str) -> Recipe:
    """A recipe from YAML text; `source` is what errors call it."""
    try:
        data = yaml.load(text, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: {_yaml_problem(error)}") from error
    except RecursionError as error:
        raise RecipeError(f"{source}: nested too deeply") from error
    return build_recipe(data, source)


def build_recipe(data: Any, source: str) -> Recipe:
    """A recipe from plain data, for example the mapping a YAML file holds."""
    if not isinstance(data, dict):
        raise RecipeError(f"{source}: a recipe is a mapping with the key `rules`, got {type(data).__name__}")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise explain(error, source, Recipe.model_json_schema()) from None


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, every default written out."""
    data = recipe.model_dump(mode="json")
    data["rules"] = [
        {key: value for key, value in rule.items() if value is not None} for rule in data["rules"]
    ]
    return data


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases, which can blow a few lines up to gigabytes, and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not allowed in a recipe", problem_mark=mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{getattr(error, 'problem', None) or error}"
