"""Every published method for videos has a row at equal work and runs a call of Wan's size at 480p."""

import re
from pathlib import Path

import pytest

from accel.patches.grid import TokenGrid
from accel.recipe.files import load_recipe, shipped_data, shipped_recipes
from scripts.quality.paired.published import PUBLISHED
from scripts.quality.paired.run import read

pytest.importorskip("triton")
from scripts.speed.launches import of_call

DOCS = Path(__file__).parents[3] / "docs"
WAN_480P = TokenGrid(21, 30, 52)
OURS = {"auto", "auto-image", "demo"}
WITHOUT_A_ROW = {"radial-extended": "for LoRA weights that have not been released"}


def methods() -> list[str]:
    """The recipes in the table of methods for videos."""
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    table = page.split("## For videos and images")[1].split("\n## ")[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    return [name for name in names if name in shipped_recipes()]


def test_every_recipe_of_a_method_is_in_the_table():
    others = {name for name in shipped_recipes() if name.startswith("llm-") or name in OURS}
    families = {name for name in shipped_recipes() if shipped_data(name).get("base") == "auto"}
    assert set(methods()) == set(shipped_recipes()) - others - families


def test_every_method_has_a_row_at_equal_work():
    rows = read(DOCS / "benchmarks" / "paired.json")
    work = {row.setting: row.work for row in rows if row.steps == 8 and row.latent_error is not None}
    expected = set(methods()) - set(WITHOUT_A_ROW)
    assert expected <= set(PUBLISHED)
    assert expected <= set(work)
    # What the page names apart, such as radial's 0.65, is the most.
    assert all(0.47 < work[name] < 0.66 for name in expected)


@pytest.mark.parametrize("name", methods())
def test_every_method_plans_and_attends_at_wans_size(name):
    _, attending = of_call(load_recipe(name).rules[0].policy, WAN_480P, 2, 64)
    assert attending.kernels
