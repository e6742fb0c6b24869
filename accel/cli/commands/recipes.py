"""accel recipes: list, show, validate, take over published plans, and the schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from accel.cli.options import Json
from accel.cli.terminal import complain, print_table, say
from accel.mistake import Mistake
from accel.recipe.files import load_recipe, parse_recipe, recipe_data, recipe_text, shipped_recipes
from accel.recipe.published import published_recipe
from accel.recipe.recipe import Recipe, recipe_schema

recipes = typer.Typer(
    help="The recipes: which method goes where.", no_args_is_help=True, add_completion=False
)

Names = Annotated[list[str], typer.Argument(help="Shipped recipes or YAML files.")]


@recipes.command("list")
def list_(as_json: Json = False) -> None:
    """List the shipped recipes."""
    found = {name: parse_recipe(text, f"{name}.yaml") for name, text in shipped_recipes().items()}
    if as_json:
        rows = [{"name": name, "methods": _methods(recipe), "description": recipe.description}
                for name, recipe in found.items()]  # fmt: skip
        print(json.dumps(rows))
        return
    cells = [(name, ", ".join(_methods(recipe)), recipe.description) for name, recipe in found.items()]
    print_table(("recipe", "method", "description"), cells, fold=True)


@recipes.command()
def show(name: Annotated[str, typer.Argument(help="A shipped recipe or a YAML file.")]) -> None:
    """Print a recipe's file, with its header."""
    say(recipe_text(name)[0].rstrip("\n"))


@recipes.command()
def validate(names: Names) -> None:
    """Check recipes; says what is wrong, where, and the nearest valid name."""
    failed = False
    for name in names:
        try:
            load_recipe(name)
            say(f"{name}: ok")
        except Mistake as error:
            failed = True
            complain(error)
    if failed:
        raise typer.Exit(2)


@recipes.command("from-plan")
def from_plan(
    file: Annotated[Path, typer.Argument(help="MInference's or MoA's JSON file.")],
) -> None:
    """Print another project's published plan by layer and head as a recipe."""
    import yaml

    print(yaml.safe_dump(recipe_data(published_recipe(file)), sort_keys=False, default_flow_style=None))


@recipes.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    print(json.dumps(recipe_schema(), indent=2))


def _methods(recipe: Recipe) -> list[str]:
    return sorted({rule.policy.method for rule in recipe.rules})
