"""Language recipes on the demo model: at the density asked for; what is dropped shows."""

from dataclasses import replace

import torch
from pytest import approx, fixture, mark, raises

from accel import load_recipe
from accel.demo.needle import BOS, FILLERS, KEYS, QUERY, VALUES
from accel.load.language_model import load_language_model
from accel.recipe.choose import LANGUAGE_MODELS
from accel.recipe.recipe import DENSE
from needles import DEPTHS, draw_many, hidden_states, measure
from scripts.language.methods import executed, solve, turn_of, with_policy
from scripts.language.real import METHODS, recipe_of


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


@mark.parametrize("method", [name for name in (*METHODS, "llm-triangle-mix") if name != "oracle"])
def test_a_method_executes_what_was_asked_for_or_what_it_keeps_anyway(method):
    recipe = recipe_of(method, 0.6, 2048, 64)
    lowest = recipe_of(method, 0.001, 2048, 64)
    assert executed(recipe, 2048) == approx(max(0.6, executed(lowest, 2048)), abs=0.04)
    assert recipe.schedule.dense_queries == 64
    assert recipe.schedule.dense_layers == load_recipe(method).schedule.dense_layers


@mark.parametrize("questions", ["end", "scattered"])
def test_dense_finds_every_needle_without_error(model, questions):
    data = draw_many(512, questions, 2)
    row = measure(model, DENSE, data, [hidden_states(model, sample) for sample in data])
    assert row["density"] == 1 and row["error"] == 0 and row["right_by_depth"] == (2,) * DEPTHS
    assert row["answer_nll"] < 0.1 < row["text_nll"]


def test_dropping_blocks_shows(model):
    data = draw_many(1024, "end", 1)
    recipe = recipe_of("llm-a-shape", 0.2, 1024, 0)
    row = measure(model, recipe, data, [hidden_states(model, sample) for sample in data])
    assert row["density"] < 0.5 and row["error"] > 0.1 and sum(row["right_by_depth"]) < DEPTHS


def test_the_default_recipe_finds_needles_in_2048_tokens(model):
    data, recipe = draw_many(2048, "end", 2), load_recipe(LANGUAGE_MODELS)
    recipe = recipe.model_copy(update={"schedule": replace(recipe.schedule, dense_queries=64)})
    row = measure(model, recipe, data, [hidden_states(model, each) for each in data])
    assert row["density"] < 0.8 and sum(row["right_by_depth"]) >= 0.99 * 2 * DEPTHS


def test_a_range_finds_needles_that_a_mean_misses_at_equal_density(model):
    """2,048 tokens, no dense queries, a third of the blocks of 64."""
    data = draw_many(2048, "end", 1)
    dense = [hidden_states(model, sample) for sample in data]
    base = recipe_of("llm-permuted", 0.33, 2048, 0)
    policy = replace(base.rules[0].policy, block_size=(128, 64), segment=128)
    narrow = solve(lambda knob: with_policy(base, turn_of(policy)(policy, knob, 2048)), 0.33, 2048)
    recipes = recipe_of("llm-permuted-bounds", 0.33, 2048, 0), narrow
    bounds, means = (measure(model, recipe, data, dense) for recipe in recipes)
    assert bounds["density"] == approx(means["density"], abs=0.03) and bounds["density"] < 0.37
    assert sum(bounds["right_by_depth"]) > sum(means["right_by_depth"])
    assert bounds["error"] < means["error"]
