"""Recipe: which policy goes where in which model; checked, immutable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from accel.kernels.attention.tier import Precision
from accel.noun import Checked
from accel.policies.dense import Dense
from accel.policies.policy import Policy
from accel.recipe.any_policy import AnyPolicy, policies_schema
from accel.recipe.compensate import AnyCompensation, Rectified
from accel.recipe.few_steps import FewSteps
from accel.recipe.reuse import Reuse
from accel.recipe.schedule import Schedule


class _OfRecipe(Checked):
    @classmethod
    def schema_of_mistakes(cls) -> dict[str, Any]:
        whole = recipe_schema()
        return {**whole["$defs"].get(cls.__name__, whole), "$defs": whole["$defs"]}


class Rule(_OfRecipe):
    """One line of a recipe; of the rules that match a site the first one wins.

    Args:
        match: glob over site names, with or without the component ("transformer_2.blocks.*.attn1").
        policy: the method and its parameters: an object of any `Policy`, or a mapping with its `method`.
        schedule: replaces the recipe's schedule for these sites.
        reuse: replaces the recipe's reuse for these sites.
        precision: what queries and keys may be rounded to, on GPUs with a kernel for it that has passed its
            test there; elsewhere, and where this is None, nothing is rounded.
        sharpness: what the softmax scale of sparse calls of diffusion models is multiplied by: over more
            tokens than in training attention is flatter (arXiv 2511.14712). Blocks are ranked by the usual.
    """

    match: str = Field(min_length=1)
    policy: AnyPolicy
    schedule: Schedule | None = None
    reuse: Reuse | None = None
    precision: Precision | None = None
    sharpness: float = Field(default=1.0, gt=0, le=10)


class ModelPattern(_OfRecipe):
    """The models a recipe was made for.

    Args:
        class_name: class of the model.
        config: values its config must have, for example `num_layers: 30`.
        experts: how many of them a pipeline holds; 2 for Wan 2.2 A14B, which differs from Wan 2.1 14B by
            nothing else.
    """

    class_name: str
    config: dict[str, Any] = Field(default_factory=dict)
    experts: int = 1


class Recipe(_OfRecipe):
    """A recipe, as a YAML file or built in Python.

    Args:
        description: one line.
        models: what it was made for; `accelerate_model` without a recipe looks here. It runs on others too.
        schedule: what stays dense, for every rule without its own schedule.
        reuse: for how long chosen blocks are kept, for every rule without its own.
        compensate: what is added in place of the blocks left out, for every rule; None adds nothing.
        few_steps: what changes for schedules of a few steps; None changes nothing.
        rules: at least one.
    """

    description: str = ""
    models: tuple[ModelPattern, ...] = ()
    schedule: Schedule = Schedule()
    reuse: Reuse = Reuse()
    compensate: AnyCompensation | None = None
    few_steps: FewSteps | None = None
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _compensates_for_what_it_can(self) -> Recipe:
        for number, rule in enumerate(self.rules if self.compensate else ()):
            if rule.sharpness != 1:
                raise ValueError(
                    f"rules[{number}].sharpness: compensate adds what dense attention has more,"
                    " at the usual scale: leave one of the two out"
                )
            if not isinstance(self.compensate, Rectified):
                continue
            if has_tail(rule.policy):
                raise ValueError(
                    "compensate: 'rectified' adds means of the blocks left out, which the tail of"
                    f" rules[{number}].policy has: leave one of the two out"
                )
            if has_exact_window(rule.policy):
                raise ValueError(
                    "compensate: 'rectified' counts whole blocks, of which the exact window of"
                    f" rules[{number}].policy hides a part: set exact: false, or leave compensate out"
                )
        return self

    def schedule_of(self, rule: Rule) -> Schedule:
        return rule.schedule or self.schedule

    def reuse_of(self, rule: Rule) -> Reuse:
        return rule.reuse or self.reuse


def has_tail(policy: Policy) -> bool:
    return any(getattr(one, "tail", False) for one in _methods_of(policy))


def has_exact_window(policy: Policy) -> bool:
    windows = (getattr(getattr(one, "always", None), "window", None) for one in _methods_of(policy))
    return any(window is not None and window.exact for window in windows)


def _methods_of(policy: Policy) -> tuple[Policy, ...]:
    return policy, *getattr(policy, "candidates", ())


BASE = "A shipped recipe that supplies every value not set here."
DENSE = Recipe(description="everything dense", rules=(Rule(match="*", policy=Dense()),))


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe as a file holds it, with every method that is registered by now."""
    schema = Recipe.model_json_schema()
    policy, definitions = policies_schema("#/$defs/{model}")
    schema["$defs"] |= definitions
    schema["$defs"]["Rule"]["properties"]["policy"] |= policy
    schema["properties"] = {"base": {"type": "string", "description": BASE}, **schema["properties"]}
    schema["required"] = []
    return schema


def dense_like(recipe: Recipe) -> Recipe:
    """Everything dense, on the backend of the recipe's dense calls: the baseline to compare it with."""
    backend = recipe.schedule.dense_backend
    return DENSE.model_copy(update={"schedule": replace(DENSE.schedule, dense_backend=backend)})
