"""What the README and the pages show is true of the code: recipes, snippets, commands, links."""

import re
import subprocess
import sys
from pathlib import Path

from pytest import mark

from accel.recipe.files import parse_recipe
from accel.recipe.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python(page):
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


def test_the_recipe_of_the_readme_is_one():
    (text,) = blocks(ROOT / "README.md", "yaml")
    recipe = parse_recipe(text, "README.md")
    assert isinstance(recipe, Recipe)
    assert recipe.schedule.dense_steps == 0.25 and recipe.rules[0].policy.method == "compose"


def test_the_commands_of_the_readme_exist():
    names = set(re.findall(r"^accel (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M))
    assert {"generate", "compare", "complete", "inspect"} <= names
    shown = subprocess.run(
        [sys.executable, "-m", "accel", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert all(name in shown for name in names)
