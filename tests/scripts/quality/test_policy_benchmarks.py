"""The policy benchmarks: methods are compared at one density, costs are what they claim, tables add up."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from accel.demo.paths import DEMO_PROMPTS
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from scripts.line_plot import Panel, line_plot
from scripts.quality.methods import METHODS
from scripts.quality.planning_cost import planning_cost
from scripts.quality.prompts import FIRST_HELD_OUT, prompt_of
from scripts.quality.savings import spread
from scripts.quality.synthetic import synthetic_sample
from scripts.quality.tables import main as write_tables

GRID = TokenGrid(5, 16, 16)


@pytest.fixture(scope="module")
def sample():
    return synthetic_sample(3, GRID)


@pytest.mark.parametrize("density", [0.25, 0.5])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "radial" and "equal work" not in name])
def test_every_method_keeps_what_it_is_asked_for(name, density, sample):
    layout = METHODS[name](density, (64, 64), GRID).layout(sample.q, sample.k, GRID, Context(grid=GRID))
    assert layout.density.item() == pytest.approx(density, abs=1e-3)


def test_held_out_prompts_come_after_the_demo_s_and_are_none_of_them():
    assert tuple(prompt_of(number) for number in range(FIRST_HELD_OUT)) == DEMO_PROMPTS
    held_out = [prompt_of(number) for number in range(FIRST_HELD_OUT, FIRST_HELD_OUT + 8)]
    assert len({*held_out, *DEMO_PROMPTS}) == len(held_out) + len(DEMO_PROMPTS)
    assert held_out[0] == "a blue star spinning over a ivory gradient background"


def test_at_equal_work_the_tail_pays_with_blocks(sample):
    policy = METHODS["tenth, tail, equal work"](0.5, (64, 64), GRID)
    layout = policy.layout(sample.q, sample.k, GRID, Context(grid=GRID))
    assert layout.density.item() + 1 / 64 == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "cost"), [("pooled, row", 64**-2), ("default", 8**-2), ("oracle, row", 1), ("radial", 0)]
)
def test_a_choice_costs_a_share_of_all_products(name, cost):
    assert planning_cost(METHODS[name](0.5, (64, 64), GRID), GRID) == pytest.approx(cost)


def test_synthetic_samples_repeat_and_attend_unevenly(sample):
    again = synthetic_sample(3, GRID)
    assert torch.equal(sample.q, again.q) and torch.equal(sample.k, again.k)
    weights = (sample.q @ sample.k.transpose(-1, -2) / sample.q.shape[-1] ** 0.5).softmax(-1)
    heaviest = weights.sort(dim=-1, descending=True).values[..., : GRID.tokens // 4].sum(-1)
    assert 0.5 < heaviest.mean() < 0.99


def test_savings_are_least_median_and_greatest():
    def row(step, method, error):
        return {
            "kind": "demo",
            "prompt": 0,
            "layer": 0,
            "step": step,
            "method": method,
            "wanted": 0.4,
            "error": error,
        }

    errors = {2: 0.5, 4: 0.9, 7: 1.1}
    rows = [row(step, "a", error) for step, error in errors.items()] + [
        row(step, "b", 1.0) for step in errors
    ]
    assert spread(rows, "a", "b") == ["-10% / 10% / 50% (1 of 3)"]


def test_a_plot_is_an_image_with_every_name():
    plot = line_plot(
        [Panel("left", {"a < b": [(0.1, 0.2), (0.5, 0.01)], "c": [(0.3, 0.1)]})], "x", "y", ("c",)
    )
    texts = [
        element.text.strip()
        for element in ElementTree.fromstring(plot).iter()
        if element.tag.endswith("text")
    ]
    assert {"a < b", "c", "left", "x", "y", "0.10"} <= set(texts)
    assert plot.count('id="c"') == 1
    with pytest.raises(ValueError, match="at least one line"):
        line_plot([], "x", "y")


def test_the_page_of_tables_is_what_the_script_writes(tmp_path):
    published = Path(__file__).parents[3] / "docs/benchmarks"
    for source in published.glob("policies*.json"):
        (tmp_path / source.name).symlink_to(source)
    write_tables(tmp_path)
    name = "policies-tables.md"
    assert (tmp_path / name).read_text(encoding="utf-8") == (published / name).read_text(encoding="utf-8")
