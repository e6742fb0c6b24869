"""The needle bench: dense is its own measure, dropping shows, density is what was asked for, runs resume."""

from dataclasses import replace

import torch
from pytest import approx, fixture, mark, raises

from accel.demo.needle import BOS, FILLERS, KEYS, QUERY, VALUES
from accel.load.language_model import load_language_model
from accel.recipe.choose import LANGUAGE_MODELS
from accel.recipe.recipe import DENSE
from scripts.language import needle as bench_needle
from scripts.language.depths import DEPTHS, draw_many
from scripts.language.methods import METHODS, available, executed, reachable, shipped, turned
from scripts.language.needle import hidden_states, measure
from scripts.language.report import (
    PAGE,
    Breaking,
    Row,
    breaking,
    goal_sentence,
    plot,
    pooled,
    report,
)
from scripts.page import insert
from scripts.row_file import read_table


@fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return load_language_model("demo-llm", "cpu").model


@mark.parametrize("questions", ["end", "scattered"])
@mark.parametrize("length", [130, 1023])
def test_every_part_holds_a_needle_and_every_needle_is_asked_for(questions, length):
    for sample in draw_many(length, questions, 3):
        tokens, body = sample.tokens[0], length - 24 if questions == "end" else length // 2
        assert tokens.shape == (length,) and tokens[0] == BOS
        needles = [at for at in range(body) if KEYS.start <= tokens[at] < KEYS.stop]
        assert [(at - 1) // ((body - 1) // DEPTHS) for at in needles] == list(range(DEPTHS))
        assert [tokens[at + 1] for at in needles] == tokens[sample.answers].tolist()
        assert [tokens[at] for at in needles] == tokens[sample.answers - 1].tolist()
        assert (tokens[sample.answers - 2] == QUERY).all() and (sample.answers >= body + 2).all()
        assert (tokens >= FILLERS.start).sum() == length - 1 - 5 * DEPTHS
        assert ((tokens >= VALUES.start) & (tokens < VALUES.stop)).sum() == 2 * DEPTHS


def test_a_text_without_room_is_refused():
    with raises(ValueError, match="do not fit in 40 tokens"):
        draw_many(40, "end", 1)


AVAILABLE = [name for name in METHODS if available(name)]


@mark.parametrize("method", AVAILABLE)
def test_a_method_executes_what_was_asked_for_or_what_it_keeps_anyway(method):
    recipe = turned(method, 0.6, 2048, 64)
    lowest = turned(method, 0.001, 2048, 64)
    if recipe is None:
        assert lowest is None
        return
    assert executed(recipe, 2048) == approx(max(0.6, executed(lowest, 2048)), abs=0.04)
    assert recipe.schedule.dense_queries == 64
    assert recipe.schedule.dense_layers == shipped(method, 0).schedule.dense_layers


def test_densities_below_what_is_kept_anyway_are_measured_once():
    assert reachable("llm-triangle-mix", [0.1, 0.2, 0.3, 0.9], 2048, 0) == [0.3, 0.9]
    assert reachable("llm-permuted-bounds", [0.3, 0.9], 2048, 0) == [0.3, 0.9]


@mark.parametrize("questions", ["end", "scattered"])
def test_dense_finds_every_needle_without_error(model, questions):
    data = draw_many(512, questions, 2)
    row = measure(model, DENSE, data, [hidden_states(model, sample) for sample in data])
    assert row["density"] == 1 and row["error"] == 0 and row["right_by_depth"] == (2,) * DEPTHS
    assert row["answer_nll"] < 0.1 < row["text_nll"]


def test_dropping_blocks_shows(model):
    data = draw_many(1024, "end", 1)
    recipe = turned("llm-a-shape", 0.2, 1024, 0)
    row = measure(model, recipe, data, [hidden_states(model, sample) for sample in data])
    assert row["density"] < 0.5 and row["error"] > 0.1 and sum(row["right_by_depth"]) < DEPTHS


def test_the_default_recipe_finds_needles_in_2048_tokens(model):
    data = draw_many(2048, "end", 2)
    row = measure(model, shipped(LANGUAGE_MODELS, 64), data, [hidden_states(model, each) for each in data])
    assert row["density"] < 0.8 and sum(row["right_by_depth"]) >= 0.99 * 2 * DEPTHS


def test_a_range_finds_needles_that_a_mean_misses_at_equal_density(model):
    """2,048 tokens, no dense queries, a third of the blocks of 64."""
    data = draw_many(2048, "end", 1)
    dense = [hidden_states(model, sample) for sample in data]
    rows = {
        name: measure(model, turned(name, 0.33, 2048, 0), data, dense)
        for name in ("llm-permuted-bounds", "llm-permuted, key blocks of 64")
    }
    bounds, means = rows.values()
    assert bounds["density"] == approx(means["density"], abs=0.03) and bounds["density"] < 0.37
    assert sum(bounds["right_by_depth"]) > sum(means["right_by_depth"])
    assert bounds["error"] < means["error"]


def row_of(method, asked, density, right, length=4096):
    return Row(method, "end", length, asked, density, 2, (right,) * DEPTHS, 0.25, 5.5, 0.125)


@mark.parametrize(
    ("points", "expected", "text"),
    [
        ([(0.1, 0.5), (0.3, 0.99), (0.2, 1.0)], Breaking(0.2, 0.1), "holds at 0.20, breaks at 0.10"),
        ([(0.1, 1.0), (0.2, 0.9), (0.3, 1.0)], Breaking(0.3, 0.2), "holds at 0.30, breaks at 0.20"),
        ([(0.3, 0.9), (0.1, 1.0)], Breaking(None, 0.3), "never holds, up to 0.30"),
        ([(0.3, 1.0)], Breaking(0.3, None), "holds at 0.30, the lowest measured"),
        ([], Breaking(None, None), "-"),
    ],
    ids=["falls", "recovers", "never", "always", "nothing"],
)
def test_a_method_breaks_at_the_first_density_below_the_bar(points, expected, text):
    assert breaking(points, dense=1.0) == expected and str(expected) == text


def test_the_bar_is_a_share_of_what_dense_does():
    assert breaking([(0.3, 0.9)], dense=0.9).holds == 0.3


def test_lengths_pool_their_questions():
    rows = [row_of("x", 0.3, 0.3, 2), replace(row_of("x", 0.3, 0.4, 0, 8192), samples=6)]
    assert pooled(rows) == {"x": [(approx(0.35), 0.25)]}
    assert pooled([row_of("x", None, 0.3, 2)]) == {}, "a recipe's own density is no point of the sweep"


def test_the_report_states_who_meets_the_goal_and_keeps_the_page(tmp_path):
    rows = [row_of("dense", None, 1.0, 2), row_of("good", 0.3, 0.3, 2), row_of("bad", 0.3, 0.3, 1)]
    assert goal_sentence(rows, [4096]).endswith("from 4,096 tokens on: good.")
    page = tmp_path / "needle.md"
    page.write_text(f"# Head\n<!-- {PAGE}: begin -->\nbefore\n<!-- {PAGE}: end -->\ntail\n")
    insert(page, PAGE, report(rows))
    insert(page, PAGE, report(rows))
    text = page.read_text()
    assert text.startswith("# Head\n") and text.endswith("tail\n") and "before" not in text
    assert (
        text.count(f"{PAGE}: begin") == 1
        and "| bad | never holds, up to 0.30 | never holds, up to 0.30 |" in text
    )


def test_the_plot_has_a_line_for_each_method():
    svg = plot([row_of("good", 0.3, 0.3, 2), row_of("good", 0.1, 0.1, 1), row_of("bad", 0.3, 0.3, 1)])
    assert svg.count('id="good"') == svg.count('id="bad"') == 1 and ">good<" in svg
    with raises(ValueError, match="at least one line"):
        plot([])


def test_main_writes_what_it_measures_and_goes_on_where_it_stopped(monkeypatch, tmp_path):
    path = tmp_path / "needle"
    arguments = [str(path), "--lengths", "300", "--samples", "1", "--methods", "llm-a-shape"]
    arguments += ["--modes", "end", "--densities", "0.5", "--as-shipped"]
    monkeypatch.setattr("sys.argv", ["bench_needle.py", *arguments])
    bench_needle.main()
    rows = read_table(path.with_suffix(".json"))
    assert [(row["method"], row["asked"]) for row in rows] == [
        ("dense", None), ("llm-a-shape", None), ("llm-a-shape", 0.5),
    ]  # fmt: skip
    assert path.with_suffix(".svg").read_text().startswith("<svg")
    assert "llm-a-shape" in path.with_suffix(".md").read_text()
    monkeypatch.setattr(bench_needle, "measure", lambda *_: raises(AssertionError))
    bench_needle.main()
    assert read_table(path.with_suffix(".json")) == rows
