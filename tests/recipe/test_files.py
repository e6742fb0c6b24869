"""Recipes: every shipped one is right, every mistake is told with its place and the nearest valid name."""

from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from pytest import mark, raises

import tiny
from accel import accelerate_model, summary
from accel.accelerate import plan_for
from accel.cli.options import parse_changes
from accel.patches.diffusers.family import FAMILIES
from accel.recipe.choose import default_recipe_name
from accel.recipe.compensate import Compensate, Rank
from accel.recipe.errors import RecipeError
from accel.recipe.files import (
    as_recipe,
    build_recipe,
    load_recipe,
    parse_recipe,
    recipe_data,
    shipped_recipes,
)
from accel.recipe.override import override
from accel.recipe.recipe import Recipe

GOOD = """
schedule: {dense_steps: 0.2}
rules:
  - match: "blocks.*.attn1"
    policy: {method: radial, decay: 0.5}
"""


@mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_survive_a_round_trip(name):
    recipe = load_recipe(name)
    assert build_recipe(recipe_data(recipe), name) == recipe


@mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_have_a_header_and_a_description(name):
    text = shipped_recipes()[name]
    assert text.startswith("#") and "ensity" in text.split("rules:")[0] and load_recipe(name).description


@mark.parametrize("name", [name for name in shipped_recipes() if not name.startswith("llm-")])
@torch.no_grad()
def test_shipped_recipes_plan_and_run(name):
    model = tiny.wan()
    accelerate_model(model, name, min_tokens=0, dense_steps=0, dense_layers=0)
    output = model(**tiny.inputs(model))[0]
    account = summary(model)
    assert output.isfinite().all() and not account.dense_reasons
    assert len(account.sites) == 3 and 0 < account.density <= 1


BAD = {
    "unknown key": (GOOD + "colour: red", "unknown key 'colour'", "expected one of"),
    "misspelt key": (GOOD.replace("schedule", "shedule"), "unknown key 'shedule'", "'schedule'"),
    "misspelt schedule key": (
        GOOD.replace("dense_steps", "dense_step"),
        "schedule: unknown key",
        "'dense_steps'",
    ),
    "misspelt policy key": (GOOD.replace("decay", "decy"), "rules[0].policy: unknown key 'decy'", "'decay'"),
    "misspelt method": (GOOD.replace("radial", "radail"), "rules[0].policy.method", "'radial'"),
    "no method": (GOOD.replace("method: radial, ", ""), "rules[0].policy.method", "required"),
    "no rules": ("schedule: {dense_steps: 0.2}", "rules", "required"),
    "empty rules": ("rules: []", "rules", "at least 1"),
    "no match": (GOOD.replace('match: "blocks.*.attn1"', "schedule: {}"), "rules[0].match", "required"),
    "empty match": (GOOD.replace("blocks.*.attn1", ""), "rules[0].match", "at least 1"),
    "no policy": ("rules: [{match: '*'}]", "rules[0].policy", "required"),
    "share above one": (GOOD.replace("0.2", "1.5"), "schedule.dense_steps", "less than or equal to 1"),
    "negative share": (GOOD.replace("0.2", "-0.1"), "schedule.dense_steps", "greater than or equal to 0"),
    "text for a number": (GOOD.replace("0.2", "many"), "schedule.dense_steps", "got 'many'"),
    "not a number": (GOOD.replace("0.2", ".nan"), "schedule.dense_steps", "finite"),
    "decay out of range": (GOOD.replace("0.5", "0"), "rules[0].policy.decay", "greater than 0"),
    "odd block size": (
        GOOD.replace("decay: 0.5", "block_size: [100, 64]"),
        "rules[0].policy.block_size[0]",
        "128",
    ),
    "out of range where a ramp may stand": (
        GOOD.replace("radial", "hip").replace("decay: 0.5", "density: -1"),
        "rules[0].policy.density: input",
        "greater than 0",
    ),
    "a list": ("- 1\n- 2", "mapping", "rules"),
    "empty file": ("", "mapping", "rules"),
    "broken yaml": (GOOD + "  x: [", "line", "column"),
    "a tag that runs code": ("rules: !!python/object/apply:os.system ['true']", "line 1", "tags are not"),
    "an alias": ("a: &a [1]\nrules: *a", "aliases", "not allowed"),
    "a key twice": (GOOD + "schedule: {}", "'schedule'", "twice"),
}


@mark.parametrize("case", BAD)
def test_mistakes_are_told_with_their_place(case):
    text, *expected = BAD[case]
    with raises(RecipeError) as caught:
        parse_recipe(text, "mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    for part in expected:
        assert part in message, message


@mark.parametrize(
    "name, expected",
    [
        ("wan2.1-t2v-14", "'wan2.1-t2v-14b'"),
        ("nothing/here.yaml", "No such file"),
        ("zzz", "expected one of"),
    ],
)
def test_unknown_recipes_name_the_nearest(name, expected):
    with raises(RecipeError, match=expected):
        load_recipe(name)


def recipe(*rules) -> Recipe:
    return build_recipe(
        {"rules": [{"match": match, "policy": {"method": "dense"}} for match in rules]}, "test"
    )


def test_first_matching_rule_wins():
    plan = plan_for(tiny.wan(), recipe("blocks.0.*", "*"))
    assert [plan.recipe.rules.index(step.rule) for step in plan.steps] == [0, 1, 1]


def test_sites_that_no_rule_matches_are_left_alone():
    plan = plan_for(tiny.wan(), recipe("blocks.1.attn1"))
    assert [step.rule is None for step in plan.steps] == [True, False, True]
    assert "left alone" in str(plan)


@mark.parametrize(
    "rules, expected", [(["blocks.*.attn9"], "none of the 3 sites"), (["*", "blocks.0.*"], "earlier rules")]
)
def test_a_rule_that_takes_no_site_is_an_error(rules, expected):
    with raises(RecipeError, match=expected):
        plan_for(tiny.wan(), recipe(*rules))


def test_overrides_by_name_and_by_path():
    changed = override(
        parse_recipe(GOOD, "good"), {"dense_layers": 0.1, "decay": 0.25, "rules.0.policy.rule": "hunyuan"}
    )
    assert changed.schedule.dense_layers == 0.1 and changed.schedule.dense_steps == 0.2
    assert changed.rules[0].policy.decay == 0.25 and changed.rules[0].policy.rule == "hunyuan"


def test_overrides_find_nested_keys():
    assert override(load_recipe("auto"), {"density": 0.5}).rules[0].policy.select.density == 0.5


def test_a_name_that_several_keys_have_is_refused_with_paths_that_work():
    quest = load_recipe("llm-quest")
    with raises(RecipeError, match="say which: ") as told:
        override(quest, {"budget": 1024})
    paths = str(told.value).partition("say which: ")[2].split(" or ")
    assert paths == ["rules.0.policy.select.budget", "rules.0.policy.decode.budget"]
    from_python = override(quest, {paths[0]: "row", paths[1]: 1024}).rules[0].policy
    from_terminal = override(quest, parse_changes([f"{paths[0]}=row", f"{paths[1]}=1024"])).rules[0].policy
    assert from_python == from_terminal
    assert (from_python.select.budget, from_python.decode.budget) == ("row", 1024)


def test_method_override_replaces_the_policy():
    assert override(parse_recipe(GOOD, "good"), {"method": "dense"}).rules[0].policy.method == "dense"


@mark.parametrize(
    "change, expected",
    [
        ({"decy": 1}, "'decay'"),
        ({"rules.3.policy.decay": 1}, "rules.3"),
        ({"schedule.dense_step": 1}, "'dense_steps'"),
        ({"decay": 2}, "less than or equal to 1"),
        ({"rules.0.match.x": 1}, "not a key of a mapping"),
        (
            {"method": "compose", "score": {"kind": "strid"}},
            r"score\.kind: unknown kind 'strid'; did",
        ),
        ({"method": "compose", "score": {}}, r"score\.kind: this key is required"),
    ],
    ids=str,
)
def test_wrong_overrides_are_told(change, expected):
    with raises(RecipeError, match=expected):
        override(parse_recipe(GOOD, "good"), change)


@pytest.mark.parametrize(
    "model, expected",
    [
        (tiny.wan(num_layers=30, num_attention_heads=12), "wan2.1-t2v-1.3b"),
        (tiny.wan(num_layers=40, in_channels=16), "wan2.1-t2v-14b"),
        (tiny.vace(num_layers=40), "wan2.1-vace-14b"),
        (tiny.chronoedit(), "chronoedit-14b"),
        (tiny.skyreels(num_layers=30), "skyreels-v2-1.3b"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_default_recipe_fits_the_model(model, expected):
    assert default_recipe_name({"transformer": model}) == expected


def test_two_experts_get_the_recipe_for_two():
    model = tiny.wan(num_layers=40, in_channels=16)
    assert default_recipe_name({"transformer": model, "transformer_2": model}) == "wan2.2-t2v-a14b"


def test_a_size_without_a_recipe_of_its_own_gets_auto():
    assert default_recipe_name({"transformer": tiny.wan(num_layers=3)}) == "auto"


@mark.parametrize("name", sorted(FAMILIES))
def test_every_supported_class_has_a_default(name):
    recipes = [load_recipe(recipe) for recipe in shipped_recipes()]
    assert any(pattern.class_name == name for recipe in recipes for pattern in recipe.models)


def test_a_model_nobody_made_a_recipe_for_says_so():
    with raises(RecipeError, match="no shipped recipe"):
        default_recipe_name({"transformer": torch.nn.Linear(2, 2)})


def test_a_residual_can_be_asked_for_by_an_override():
    shipped = load_recipe("auto")
    assert shipped.compensate == Compensate(store=Rank(8))
    plain = override(shipped, {"compensate": None})
    assert plain.compensate is None and plain.schedule == shipped.schedule
    assert override(plain, {"compensate.kind": "residual"}).compensate == Compensate()
    ranked = override(plain, {"compensate.store": {"rank": 16}}).compensate
    assert ranked == Compensate(store=Rank(16))
    with raises(RecipeError, match=r"compensate.max_progress"):
        override(plain, {"compensate.max_progress": 0})


def test_few_steps_choose_blocks_in_every_step():
    reuse = load_recipe("auto").reuse
    assert reuse.branches and 1 / 8 > reuse.max_progress > 4 / 40


@mark.parametrize(
    ("value", "said"),
    [
        (3, "input should be less than or equal to 1, got 3"),
        ("a", "input should be a valid number, unable to parse string as a number, got 'a'"),
        ({"ramps": 1}, "unknown key 'ramps'; did you mean 'ramp'?"),
        ({"ramp": [[0, 1], [1, 2]]}, "less than or equal to 1, got 2"),
    ],
)
def test_of_a_number_or_a_ramp_only_what_is_there_is_explained(value, said):
    rule = {"match": "*", "policy": {"method": "hip", "density": value}}
    with raises(RecipeError) as refused:
        build_recipe({"rules": [rule]}, "x")
    lines = [line for line in str(refused.value).splitlines() if "is required" not in line]
    assert len(lines) == 1 and lines[0].startswith("x: rules[0].policy.density") and said in lines[0]


def test_what_to_write_for_a_bare_kind_or_a_method_is_said():
    policy = {"method": "compose", "order": "hilbert", "score": {"kind": "pooled"}}
    with raises(RecipeError, match=r"policy.order: a mapping is expected: write \{kind: hilbert\}"):
        build_recipe({"rules": [{"match": "*", "policy": policy}]}, "x")
    with raises(RecipeError, match=r"'compose' is a method, not a shipped recipe: .*\{method: compose\}"):
        as_recipe("compose")


def test_yes_is_no_number_and_any_mapping_is_one():
    rules = [{"match": "*", "policy": {"method": "hip", "density": True}}]
    with raises(RecipeError, match=r"x: rules\[0\].policy.density: a number is expected, got True"):
        build_recipe({"rules": rules}, "x")
    with raises(RecipeError, match=r"x: schedule.dense_steps: a number is expected, got False"):
        build_recipe({"base": "auto", "schedule": {"dense_steps": False}}, "x")
    proxy = MappingProxyType({"base": "auto", "schedule": MappingProxyType({"dense_steps": 0.5})})
    assert build_recipe(proxy, "x").schedule == replace(load_recipe("auto").schedule, dense_steps=0.5)
