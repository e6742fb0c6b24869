"""A recipe that is built in Python is refused in the words that a file is refused in."""

from dataclasses import replace

from pytest import mark, raises

from accel import Recipe, Rule
from accel.policies.compose import Composed
from accel.policies.parts.scores import Strided
from accel.policies.parts.selectors import TopK
from accel.policies.radial import Radial
from accel.recipe.errors import RecipeError
from accel.recipe.files import build_recipe
from accel.recipe.recipe import ModelPattern
from accel.recipe.schedule import Schedule
from accel.run.settings import GenerateSettings

RADIAL = {"method": "radial"}
WRONG = {
    "method": ({"match": "*", "policy": {"method": "radal"}}, "policy.method: .* did you mean 'radial'"),
    "parameter": ({"match": "*", "policy": RADIAL | {"decy": 1}}, "policy: .* did you mean 'decay'"),
    "value": ({"match": "*", "policy": RADIAL | {"decay": 5}}, "policy.decay: "),
    "precision": ({"match": "*", "policy": RADIAL, "precision": "fp8"}, "precision: .* 'int8', got 'fp8'"),
    "key": ({"mtch": "*", "match": "*", "policy": RADIAL}, "unknown key 'mtch'; did you mean 'match'"),
    "missing": ({"policy": RADIAL}, "match: this key is required"),
    "schedule": (
        {"match": "*", "policy": RADIAL, "schedule": {"dense_stps": 0.1}},
        "schedule: .*dense_steps",
    ),
    "name": ({"match": "*", "policy": "radial"}, "policy: a mapping is expected: write {method: radial}"),
    "mapping": (
        {"match": "*", "policy": RADIAL, "schedule": 5},
        "schedule: input should be a mapping, got 5",
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


@mark.parametrize(
    ("build", "place"),
    [
        (lambda: Schedule(dense_steps=True), "Schedule: dense_steps"),
        (lambda: replace(Schedule(), min_tokens=False), "Schedule: min_tokens"),
        (lambda: TopK(0.5, layer_density=(True, 0.5)), r"TopK: layer_density\[0\]"),
        (lambda: Composed(select={"kind": "top_k", "density": True}), "Composed: select.density"),
        (lambda: ModelPattern(class_name="Any", experts=True), "ModelPattern: experts"),
        (lambda: Rule(match="*", policy=RADIAL, reuse={"steps": True}), "Rule: reuse.steps"),
    ],
)
def test_yes_is_no_number_in_python_either(build, place):
    with raises(RecipeError, match=f"{place}: a number is expected, got (True|False)"):
        build()
    assert Schedule(sparse_decode=True).sparse_decode is True


def test_an_error_of_the_recipe_itself_names_the_nearest_key():
    with raises(RecipeError, match="Recipe: unknown key 'rule'; did you mean 'rules'"):
        Recipe(rule=[])


@mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Schedule(dense_stps=0.1), "Schedule: unknown key 'dense_stps'; did you mean 'dense_steps'?"),
        (lambda: Radial(decay=5.0), "Radial: decay: input should be less than or equal to 1, got 5.0"),
        (lambda: Radial("radial", 5.0), "Radial: decay: input should be less than or equal to 1, got 5.0"),
        (lambda: TopK(), "TopK: density: this key is required"),
        (lambda: TopK(0.1, row_density=0.2), "TopK: row_density must not exceed density, got 0.2 and 0.1"),
        (lambda: Strided(query=0), "Strided: query: input should be greater than or equal to 1, got 0"),
        (
            lambda: Composed(score=Strided(), select={"kind": "top_k", "densty": 1}),
            "Composed: select: unknown key 'densty'; did you mean 'density'?",
        ),
        (
            lambda: GenerateSettings(prompt="a cat", num_frame=1),
            "GenerateSettings: unknown key 'num_frame'; did you mean 'num_frames'?",
        ),
    ],
)
def test_every_noun_is_refused_in_these_words(build, sentence):
    with raises(RecipeError) as refused:
        build()
    assert sentence in str(refused.value).splitlines()
