"""Recipes from strangers are data: whatever else YAML can say is refused, quickly, with its place."""

import os
import time

from pytest import mark, raises

from accel.recipe.errors import RecipeError
from accel.recipe.files import (
    MAX_BYTES,
    build_recipe,
    load_recipe,
    parse_recipe,
    recipe_data,
    shipped_recipes,
)
from accel.recipe.override import override
from accel.recipe.yaml_text import MAX_DEPTH, MAX_ITEMS, MAX_NUMBER, parse_yaml

GOOD = "rules: [{match: '*', policy: {method: radial, decay: 0.5}}]"
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nrules: *c"

REFUSED = {
    "billion laughs": (BOMB, "line 1, column 4", "anchors and aliases"),
    "an alias of itself": ("rules: &a [*a]", "line 1", "anchors"),
    "an anchor nobody uses": ("rules: &a []", "anchors"),
    "a merge": ("rules: []\n<<: {schedule: {}}", "line 2", "merging"),
    "a Python object": (
        "rules: !!python/object/apply:os.system [true]",
        "line 1",
        "tags are not allowed",
        "python",
    ),
    "an include": ("rules: !include other.yaml", "tags are not allowed", "!include"),
    "binary": ("description: !!binary aGFsbG8=", "tags are not allowed"),
    "a set": ("rules: !!set {a, b}", "tags are not allowed"),
    "a key twice": ("rules: []\nrules: []", "line 2", "'rules'", "twice"),
    "a key twice, quoted": ("rules: []\n'rules': []", "twice"),
    "a key twice, deep": ("rules: [{match: a, match: b}]", "'match'", "twice"),
    "a ratio": ("rules: [{policy: {decay: 1:30}}]", "line 1", "1:30 is a number of base 60"),
    "a time": ("dense_steps: -0:07.5", "base 60", "in quotes"),
    "a list as key": ("[a, b]: 1", "line 1", "a key is text"),
    "a mapping as key": ("{a: b}: 1", "a key is text"),
    "a number as key": ("schedule: {1: 2}", "schedule", "a key is text"),
    "nothing as key": ("~: 2", "a key is text"),
    "two documents": (GOOD + "\n---\n" + GOOD, "document"),
    "deep lists": ("rules: " + "[" * 5000 + "]" * 5000, f"more than {MAX_DEPTH} deep"),
    "deep mappings": ("{a: " * 5000 + "}" * 5000, f"more than {MAX_DEPTH} deep"),
    "many rules": ("rules: [" + "x," * (MAX_ITEMS + 1) + "]", "rules: 1001 entries", "at most 1000"),
    "long text": (f"description: {'x' * 5000}", "description: 5000 characters"),
    "a huge number": (GOOD.replace("0.5", str(MAX_NUMBER + 1)), "rules[0].policy.decay", "2147483647"),
    "a huge negative number": (GOOD.replace("0.5", "-1.0e+300"), "rules[0].policy.decay", "larger than"),
    "more digits than Python reads": (GOOD.replace("0.5", "9" * 6000), "6000 digits", "line 1"),
    "a number that overflows": (GOOD.replace("0.5", "1e999"), "rules[0].policy.decay", "got '1e999'"),
    "infinity": (GOOD.replace("0.5", ".inf"), "rules[0].policy.decay"),
    "a date": (GOOD.replace("0.5", "2026-01-01"), "rules[0].policy.decay"),
    "control characters": ("rules: \x00", "special characters"),
    "a tab": ("rules:\n\t- x", "line 2"),
    "not closed": ("rules: [{match: '*'", "line 1"),
}


@mark.parametrize("case", REFUSED)
def test_what_is_more_than_data_is_refused_with_its_place(case):
    text, *expected = REFUSED[case]
    started = time.perf_counter()
    with raises(RecipeError) as caught:
        parse_recipe(text, "theirs.yaml")
    assert time.perf_counter() - started < 5
    message = str(caught.value)
    assert message.startswith("theirs.yaml: ") and len(message) < 400
    for part in expected:
        assert part in message, message


@mark.parametrize("start", ["? ", "- ", "a: ", "{", "'x", "&", "*", "!", "a, ", "# ", "|\n"], ids=repr)
def test_a_file_full_of_one_thing_is_refused_at_once(start):
    started = time.perf_counter()
    with raises(RecipeError):
        parse_recipe(start * (60_000 // len(start)), "theirs.yaml")
    assert time.perf_counter() - started < 5


def test_data_from_python_and_overrides_have_the_same_limits():
    with raises(RecipeError, match=r"mapping: rules: 2000 entries"):
        build_recipe({"rules": [{}] * 2000}, "mapping")
    with raises(RecipeError, match=r"override: rules\[0\]\.policy\.decay: the number is larger"):
        override(parse_recipe(GOOD, "good"), {"decay": 10**40})
    endless = []
    endless.append(endless)
    with raises(RecipeError, match="deep"):
        build_recipe({"rules": endless}, "mapping")


def test_what_recipes_do_say_is_read():
    text = "# a comment\ndescription: 'don''t: [really] 1:30'\n" + GOOD.replace("0.5", "5.0e-1")
    assert parse_recipe(text, "good").rules[0].policy.decay == 0.5
    assert parse_yaml("{a: '1:30', b: 1:x}", "x") == {"a": "1:30", "b": "1:x"}
    assert parse_yaml("[-----------, 0.3333333333333333333333333333333333, 1_000]", "x")[1:] == [1 / 3, 1000]


@mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_far_within_the_limits(name):
    build_recipe(recipe_data(load_recipe(name)), name)
    assert len(shipped_recipes()[name]) < MAX_BYTES / 8


def test_files_that_are_no_short_text_are_refused(tmp_path):
    large, binary, folder = tmp_path / "large.yaml", tmp_path / "binary.yaml", tmp_path / "folder.yaml"
    large.write_text("#" * 100_000)
    binary.write_bytes(b"\xff\xfe\x00")
    folder.mkdir()
    for path, expected in ((large, "larger than"), (binary, "not UTF-8"), (folder, "not a file")):
        with raises(RecipeError, match=expected):
            load_recipe(path)


@mark.skipif(not os.path.exists("/dev/zero"), reason="needs a device that never ends")
def test_a_link_to_a_device_is_not_read(tmp_path):
    path = tmp_path / "endless.yaml"
    path.symlink_to("/dev/zero")
    with raises(RecipeError, match="a folder or a device"):
        load_recipe(path)


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n")
    assert load_recipe(path).rules[0].policy.decay == 0.5


def test_a_shipped_name_with_a_suffix_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with raises(RecipeError, match="is called 'radial', without"):
        load_recipe("radial.yaml")


@mark.parametrize("thing", [None, 3, {"rules": []}, ["radial"]], ids=lambda thing: type(thing).__name__)
def test_what_is_no_recipe_says_what_is(thing):
    with raises(RecipeError, match="the name of a shipped one or the path of a YAML file"):
        load_recipe(thing)
