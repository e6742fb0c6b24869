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
ALL_PAGES = [*PAGES, *sorted((ROOT / "accel").rglob("*.md")), *sorted((ROOT / "recipes").rglob("*.md"))]
# Folders that a page may leave out of a path.
SHORT = (".", "accel", "kernels", "patches")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def exists(path: str) -> bool:
    return any(
        any(ROOT.glob(f"{folder}/{path.strip('/')}{ending}")) for folder in SHORT for ending in ("", ".py")
    )


@mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page):
    """Also those that are named without a link: files, folders, modules that are run, test files."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(
        r"(?<![\w./-])((?:kernels|patches|accel|scripts|tests|recipes)/[\w./-]*\w)(?![\w<])", text
    )
    named += [name.replace(".", "/") for name in re.findall(r"python -m (scripts\.[\w.]+\w)", text)]
    if page.name == "kernels.md":
        named += re.findall(r"`([a-z0-9_]+/[a-z0-9_]+)`", text)
    if page.name != "suites.md":  # which names the tests of other libraries
        named += [f"tests/**/{name}" for name in re.findall(r"`(test_\w+\.py)`", text)]
    assert not [path for path in named if not exists(path)]


@mark.parametrize(
    "page", [page for page in PAGES if page.parent.name == "benchmarks"], ids=lambda page: page.name
)
def test_pages_of_benchmarks_begin_with_what_was_found(page):
    """In words; a page of tables only names the page that does."""
    head = "\n".join(page.read_text(encoding="utf-8").splitlines()[:10])
    assert "hat was found" in head or (page.stem.endswith("-tables") and ".md) says what was found" in head)


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
