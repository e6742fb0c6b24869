"""A method of a user's own: an object in Python, a name in YAML once it is registered or installed."""

import importlib
import json
import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import torch
from pytest import fixture, mark, raises

import tiny
from accel import Policy, Recipe, Rule, accelerate_model, load_recipe, register_policy, summary
from accel.accelerate import plan_for
from accel.cli.app import main
from accel.policies import registry
from accel.recipe.compensate import Rectified
from accel.recipe.errors import RecipeError
from accel.recipe.files import build_recipe, recipe_data
from accel.recipe.override import override
from accel.recipe.recipe import recipe_schema

METHOD = '''
from dataclasses import dataclass

import torch
from accel import Policy
from accel.kernels.layout.layout import BlockLayout


@dataclass(frozen=True)
class Near(Policy):
    """Every block sees the blocks at most `reach` away."""

    reach: int = 1
    method: str = "near"

    def layout(self, q, k, grid, context):
        q_blocks, kv_blocks = (torch.arange(-(-x.shape[2] // 16), device=q.device) for x in (q, k))
        near = (q_blocks[:, None] - kv_blocks).abs() <= self.reach
        return BlockLayout.from_mask(near[None, None], (16, 16), q.shape[2], k.shape[2])
'''
YAML = "rules: [{match: '*', policy: {method: near, reach: 2}}]"


@fixture
def near(tmp_path, monkeypatch):
    """The module with the method above, imported from outside the package."""
    (tmp_path / "my_method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    known = dict(registry.POLICIES)
    yield importlib.import_module("my_method")
    del sys.modules["my_method"]
    registry.POLICIES.clear()
    registry.POLICIES.update(known)
    registry._offered.cache_clear()


@torch.no_grad()
def density(recipe, **changes) -> float:
    model = accelerate_model(tiny.wan(), recipe, **changes)
    assert model(**tiny.inputs(model))[0].isfinite().all()
    account = summary(model)
    assert not account.dense_reasons and {site.method for site in account.sites} == {"near"}
    return account.density


def yaml_file(folder: Path, text: str = YAML) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_an_object_is_a_recipe_a_rule_and_part_of_a_mapping(near):
    policy = near.Near(reach=2)
    expected = density(policy)
    assert 0 < expected < 1
    assert density(Recipe(rules=(Rule(match="*", policy=policy),))) == expected
    assert density({"rules": [{"match": "*", "policy": policy}]}) == expected
    assert density(near.Near(reach=1)) < expected


def test_a_recipe_names_it_once_it_is_registered(near, tmp_path):
    with raises(RecipeError, match=r"rules\[0\].policy.method: unknown method 'near'; expected one"):
        load_recipe(yaml_file(tmp_path))
    assert register_policy(near.Near) is near.Near
    recipe = load_recipe(yaml_file(tmp_path))
    assert recipe.rules[0].policy == near.Near(reach=2)
    assert density(yaml_file(tmp_path)) == density(near.Near(reach=2))
    assert build_recipe(recipe_data(recipe), "again") == recipe
    assert "near" in recipe_schema()["$defs"]["Rule"]["properties"]["policy"]["discriminator"]["mapping"]


def test_an_installed_package_offers_it(near, tmp_path, monkeypatch):
    entry = EntryPoint("near", "my_method:Near", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == registry.GROUP else [])
    registry._offered.cache_clear()
    with raises(RecipeError, match="did you mean 'near'"):
        load_recipe(yaml_file(tmp_path, YAML.replace("near", "neer")))
    assert "near" not in registry.POLICIES
    assert load_recipe(yaml_file(tmp_path)).rules[0].policy.reach == 2


def test_an_installed_package_that_is_broken_says_so(near, tmp_path, monkeypatch):
    entry = EntryPoint("near", "my_method:Far", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry._offered.cache_clear()
    with raises(RecipeError, match=r"'near' of the installed package behind 'my_method:Far' cannot be used"):
        load_recipe(yaml_file(tmp_path))


MISTAKES = {
    "misspelt key": (
        "{method: near, reech: 2}",
        r"rules\[0\].policy: unknown key 'reech'; did you mean 'reach'",
    ),
    "text for a number": ("{method: near, reach: far}", r"rules\[0\].policy.reach: .*got 'far'"),
    "misspelt name": ("{method: neer}", "did you mean 'near'"),
}


@mark.parametrize("case", MISTAKES)
def test_mistakes_are_reported_as_those_of_shipped_methods(near, tmp_path, case):
    register_policy(near.Near)
    policy, expected = MISTAKES[case]
    with raises(RecipeError, match=f"mine.yaml: {expected}" if "rules" in expected else expected):
        load_recipe(yaml_file(tmp_path, f"rules: [{{match: '*', policy: {policy}}}]"))


def test_overrides_reach_an_object_that_no_recipe_can_name(near):
    recipe = Recipe(rules=(Rule(match="*", policy=near.Near()),))
    assert override(recipe, {"reach": 2}).rules[0].policy == near.Near(reach=2)
    assert override(recipe, {"dense_steps": 0.5}).rules[0].policy is recipe.rules[0].policy
    assert override(recipe, {"method": "radial"}).rules[0].policy.method == "radial"
    with raises(RecipeError, match="did you mean 'reach'"):
        override(recipe, {"reech": 2})
    with raises(RecipeError, match="Near"):
        override(recipe, {"rules.0.policy.reech": 2})


class Plain(Policy):
    """No dataclass, and an answer that is no layout."""

    method = "plain"

    def layout(self, q, k, grid, context):
        return q


class Nameless(Plain):
    method = None


def test_a_method_that_returns_something_else_is_refused_before_the_first_call():
    with raises(RecipeError, match=r"Plain.layout must return a BlockLayout, got Tensor"):
        plan_for(tiny.wan(), Plain())


def test_a_method_without_a_name_is_refused():
    with raises(RecipeError, match="needs a name for reports"):
        plan_for(tiny.wan(), Nameless())


def test_what_can_be_registered():
    @dataclass(frozen=True)
    class Other(Plain):
        method: str = "radial"

    for wrong in (Plain, Plain(), int):
        with raises(TypeError, match="a dataclass that inherits from Policy"):
            register_policy(wrong)
    with raises(ValueError, match=r"'radial' is accel.policies.radial.Radial already"):
        register_policy(Other)


BASED = "base: radial-extended\nschedule: {dense_steps: 0.5}"


def test_a_recipe_on_a_base_says_only_what_differs(tmp_path):
    base, recipe = load_recipe("radial-extended"), load_recipe(yaml_file(tmp_path, BASED))
    assert recipe.rules == base.rules and recipe.models == ()
    assert recipe.schedule.dense_steps == 0.5 and recipe.schedule.dense_layers == base.schedule.dense_layers
    assert build_recipe({"base": "radial-extended", "schedule": {"dense_steps": 0.5}}, "mine") == recipe


def test_another_kind_of_compensation_takes_the_place_of_the_bases_whole():
    known = build_recipe({"base": "auto", "compensate": {"kind": "rectified"}}, "mine")
    assert known.compensate == Rectified()
    kept = build_recipe({"base": "auto", "compensate": {"transport": False}}, "mine").compensate
    assert kept == replace(load_recipe("auto").compensate, transport=False)
    assert override(load_recipe("auto"), {"compensate.kind": "rectified"}).compensate == Rectified()


EXACT = {"method": "compose", "always": {"window": {"size": [3, 3, 3], "exact": True}}}


@mark.parametrize(
    ("rule", "kind", "why"),
    [
        (
            {"policy": {"method": "radial"}, "sharpness": 1.5},
            "residual",
            r"rules\[0\]\.sharpness: compensate",
        ),
        ({"policy": EXACT}, "rectified", "compensate: 'rectified' counts whole blocks"),
    ],
)
def test_what_cannot_be_compensated_for_is_refused_where_it_is_read(rule, kind, why):
    with raises(RecipeError, match=f"mine: {why}"):
        build_recipe({"compensate": {"kind": kind}, "rules": [{"match": "*", **rule}]}, "mine")


@mark.parametrize(
    ("text", "expected"),
    [
        (
            BASED.replace("radial-extended", "radial-extnded"),
            "base: .*'radial-extnded'; did you mean 'radial",
        ),
        (BASED.replace("radial-extended", "[radial]"), "base: no shipped recipe is called"),
        (
            BASED.replace("dense_steps", "dense_step"),
            "schedule: unknown key 'dense_step'; did you mean",
        ),
        (BASED.replace("base", "bsae"), "unknown key 'bsae'; did you mean 'base'"),
    ],
    ids=["misspelt", "a list", "a key", "the word"],
)
def test_mistakes_with_a_base_are_reported_with_their_place(tmp_path, text, expected):
    with raises(RecipeError, match=f"mine.yaml: {expected}"):
        load_recipe(yaml_file(tmp_path, text))


@fixture
def command(near, tmp_path, monkeypatch, capsys):
    """Run the command line in the folder of the method; gives the exit code and both outputs."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["accel", *words])
        with raises(SystemExit) as stopped:
            main()
        return stopped.value.code or 0, *capsys.readouterr()

    return run


POLICY = "--policy", "my_method:Near"


def test_the_command_line_takes_it(command, tmp_path):
    code, out, err = command("inspect", "demo", *POLICY, "--set", "reach=3", "--json")
    assert code == 0, err
    assert {site["method"] for site in json.loads(out)["sites"]} == {"near"}
    yaml_file(tmp_path)
    code, out, err = command(
        "inspect", "demo", "--policy", "my_method:Near", "--recipe", "mine.yaml", "--json"
    )
    assert code == 0 and {site["method"] for site in json.loads(out)["sites"]} == {"near"}, err


@mark.parametrize(
    ("policy", "expected"),
    [
        ("my_method", "expected module:Class"),
        ("no_such_module:Near", "No module named 'no_such_module'"),
        ("my_method:Far", "has no attribute 'Far'"),
        ("my_method:torch", "a dataclass that inherits from Policy"),
    ],
)
def test_the_command_line_says_what_is_wrong_with_it(command, policy, expected):
    code, _, err = command("generate", "--policy", policy)
    assert code == 2 and f"--policy {policy}" in err and expected in err and "Traceback" not in err
