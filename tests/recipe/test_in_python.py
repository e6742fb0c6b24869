"""A recipe that is built in Python is refused in the words that a file is refused in."""

from pytest import mark, raises

from accel import Recipe, Rule
from accel.recipe.errors import RecipeError
from accel.recipe.files import build_recipe

RADIAL = {"method": "radial"}
WRONG = {
    "method": ({"match": "*", "policy": {"method": "radal"}}, "policy.method: .* did you mean 'radial'"),
    "parameter": ({"match": "*", "policy": RADIAL | {"decy": 1}}, "policy: .* did you mean 'decay'"),
    "value": ({"match": "*", "policy": RADIAL | {"decay": 5}}, "policy.decay: "),
    "key": ({"mtch": "*", "match": "*", "policy": RADIAL}, "unknown key 'mtch'; did you mean 'match'"),
    "missing": ({"policy": RADIAL}, "match: this key is required"),
    "schedule": (
        {"match": "*", "policy": RADIAL, "schedule": {"dense_stps": 0.1}},
        "schedule: .*dense_steps",
    ),
}


def sentences(error: RecipeError, *prefixes: str) -> list[str]:
    text = str(error)
    for prefix in prefixes:
        text = text.replace(prefix, "")
    return text.splitlines()


@mark.parametrize(("rule", "sentence"), WRONG.values(), ids=WRONG)
def test_errors_are_those_of_a_file(rule, sentence):
    with raises(RecipeError, match=sentence) as alone:
        Rule(**rule)
    with raises(RecipeError) as in_python:
        Recipe(rules=[rule])
    with raises(RecipeError) as of_file:
        build_recipe({"rules": [rule]}, "mine.yaml")
    assert sentences(in_python.value, "Recipe: ") == sentences(of_file.value, "mine.yaml: ")
    of_rule = sentences(of_file.value, "mine.yaml: ", "rules[0].", "rules[0]: ")
    assert sentences(alone.value, "Rule: ") == of_rule


def test_an_error_of_the_recipe_itself_names_the_nearest_key():
    with raises(RecipeError, match="Recipe: unknown key 'rule'; did you mean 'rules'"):
        Recipe(rule=[])
