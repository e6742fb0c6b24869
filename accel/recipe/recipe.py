"""Recipe: which policy goes where in which model; checked, immutable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Field

from accel.policies import POLICIES
from accel.policies.policy import Policy
from accel.recipe.reuse import Reuse
from accel.recipe.schedule import Schedule

if TYPE_CHECKING:
    AnyPolicy = Policy
else:
    AnyPolicy = Annotated[Union[tuple(POLICIES.values())], Field(discriminator="method")]  # noqa: UP007


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rule(_Strict):
    """One line of a recipe; of the rules that match a site the first one wins.

    Args:
        match: glob over site names, with or without the component ("transformer_2.blocks.*.attn1").
        policy: the method and its parameters.
        schedule: replaces the recipe's schedule for these sites.
        reuse: replaces the recipe's reuse for these sites.
    """

    match: str = Field(min_length=1)
    policy: AnyPolicy
    schedule: Schedule | None = None
    reuse: Reuse | None = None


class ModelPattern(_Strict):
    """The models a recipe was made for.

    Args:
        class_name: class of the model.
        config: values its config must have, for example `num_layers: 30`.
        experts: how many of them a pipeline holds; 2 for Wan 2.2 A14B, which is told from Wan 2.1 14B by
            nothing else.
    """

    class_name: str
    config: dict[str, Any] = Field(default_factory=dict)
    experts: int = 1


class Recipe(_Strict):
    """A recipe, as a YAML file or built in Python.

    Args:
        description: one line.
        models: what it was made for; `accelerate_model` without a recipe looks here. It runs on others too.
        schedule: what stays dense, for every rule that has no schedule of its own.
        reuse: for how long chosen blocks are kept, likewise.
        rules: at least one.
    """

    description: str = ""
    models: tuple[ModelPattern, ...] = ()
    schedule: Schedule = Schedule()
    reuse: Reuse = Reuse()
    rules: tuple[Rule, ...] = Field(min_length=1)

    def schedule_of(self, rule: Rule) -> Schedule:
        return rule.schedule or self.schedule

    def reuse_of(self, rule: Rule) -> Reuse:
        return rule.reuse or self.reuse


DENSE = Recipe(description="everything dense", rules=(Rule(match="*", policy={"method": "dense"}),))
