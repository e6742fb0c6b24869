"""The account that people read: names, machine, time and groups of sites; as text and in a notebook."""

from pytest import mark

import tiny
from accel import accelerate_model, summary
from accel.apply.groups import common_name

RADIAL = {"method": "radial", "block_size": [16, 16]}


def ran(recipe, steps=(1000, 900, 100, 50), **overrides):
    model = tiny.wan()
    accelerate_model(model, recipe, min_tokens=0, **overrides)
    for step in steps:
        model(**{**tiny.inputs(model), "timestep": tiny.torch.tensor([step])})
    return summary(model)


def recipe(**more):
    return {"rules": [{"match": "*", "policy": RADIAL}], **more}


def test_the_first_lines_name_recipe_machine_kernel_and_time():
    account = ran(recipe(description="mine"), dense_steps=0.5)
    first, second, third = str(account).splitlines()[:3]
    assert "by recipe mine, 12 calls in 4 forwards" in first
    assert second == "on cpu, float32; sparse calls by the torch tier; dense calls by diffusers' native"
    assert third.startswith("sparse calls took ") and (" s saved" in third or " s lost: dense" in third)
    seconds = account.to_dict()["attention_seconds"]
    assert seconds["sparse"] > 0 and seconds["dense"] > 0


@mark.parametrize(
    "asked, overrides, called",
    [("radial", {}, "radial"), ("radial", {"decay": 0.5}, "radial, changed"), (recipe(), {}, "of radial")],
    ids=["by name", "changed", "without a name"],
)
def test_a_recipe_is_called_what_its_user_calls_it(asked, overrides, called):
    assert ran(asked, (), dense_steps=0, **overrides).recipe in (called, f"{called}, changed")


def test_nothing_is_said_of_time_where_nothing_ran_both_ways():
    account = ran(recipe(), dense_steps=0, dense_layers=0)
    assert account.saving is None and "took" not in str(account)
    assert account.to_dict()["attention_seconds"] is None


def test_sites_that_did_alike_are_one_line():
    lines = str(ran(recipe(), dense_steps=0, dense_layers=0.3)).splitlines()
    table = lines[lines.index("") + 2 :]
    assert [line.split()[0] for line in table] == ["blocks.0.attn1", "blocks.1-2.attn1"]


@mark.parametrize(
    "names, common",
    [
        (["a.0.b", "a.1.b", "a.3.b"], "a.0-1,3.b"),
        (["a.7.b"], "a.7.b"),
        (["down.0.attn.1", "down.1.attn.1"], "down.0-1.attn.1"),
    ],
)
def test_names_that_differ_in_numbers_are_one_name(names, common):
    assert common_name(names) == common


def test_a_notebook_shows_a_table_and_obeys_nothing_in_it():
    page = ran(recipe(description="<script>alert(1)</script>\x1b[2J"))._repr_html_()
    assert page.count("<tr>") == 2 and "<th>density</th>" in page
    assert "<script>" not in page and "&lt;script&gt;" in page and "\x1b" not in page
