"""Plan: a recipe resolved against the sites of a loaded model, without touching the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

import torch

from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.patches.site import Site
from accel.policies.parts.ramp import at_progress
from accel.policies.policy import Policy
from accel.recipe.errors import RecipeError, nearest
from accel.recipe.recipe import Recipe, Rule

CHECK_TOKENS = 2048
CHECK_GRID = TokenGrid(2, 4, 4)


@dataclass(frozen=True)
class Step:
    """One site and the rule it follows; a site that no rule matches has None and is left alone."""

    site: Site
    rule: Rule | None


@dataclass(frozen=True)
class Plan:
    """What applying a recipe would do. Printable.

    Args:
        name: of the recipe, for people.
    """

    recipe: Recipe
    steps: tuple[Step, ...]
    name: str = ""

    @property
    def matched(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.rule is not None)

    @property
    def called(self) -> str:
        """How to refer to the recipe: its name, its description, or its methods."""
        methods = dict.fromkeys(rule.policy.method for rule in self.recipe.rules)
        return self.name or self.recipe.description or f"of {', '.join(methods)}"

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} of {len(self.steps)} attention sites follow the recipe"]
        for step in self.steps:
            method = step.rule.policy.method if step.rule else "left alone"
            lines.append(f"  {step.site.full_name:<32} {method}")
        return "\n".join(lines)


def make_plan(sites: Sequence[Site], recipe: Recipe) -> Plan:
    """Give every site the first rule that matches its name.

    Raises:
        RecipeError: if a rule's glob matches no site, or only sites that earlier rules take, or its method
            needs a token grid and the site is in a language model, or the other way round.
    """
    used: set[int] = set()
    steps = []
    for site in sites:
        number = next((n for n, rule in enumerate(recipe.rules) if matches(rule.match, site)), None)
        used.add(number if number is not None else -1)
        steps.append(Step(site, None if number is None else recipe.rules[number]))
    for number, rule in enumerate(recipe.rules):
        if number not in used:
            raise RecipeError(f"rules[{number}].match: {_unused(rule, sites)}")
    _require_dense_backends(recipe, steps)
    _require_sharpness(recipe, steps)
    _require_methods(recipe, steps)
    return Plan(recipe, tuple(steps))


def _require_dense_backends(recipe: Recipe, steps: Sequence[Step]) -> None:
    """Refuse a backend for dense calls that does not exist, is not installed, or suits none of the models."""
    asked = {
        (recipe.schedule_of(step.rule).dense_backend, step.site.causal): None for step in steps if step.rule
    }
    for name, causal in asked:
        if name is None:
            continue
        where = "schedule.dense_backend"
        if causal:
            raise RecipeError(
                f"{where}: is for diffusion models; a language model's dense calls run on what it was loaded "
                "with (`attn_implementation`)"
            )
        from accel.patches.diffusers.dense_backend import backend_names, require_backend

        if name not in backend_names():
            raise RecipeError(f"{where}: unknown backend {name!r}; {nearest(name, backend_names())}")
        try:
            require_backend(name)
        except ValueError as error:
            raise RecipeError(f"{where}: {error}") from error


def _require_sharpness(recipe: Recipe, steps: Sequence[Step]) -> None:
    """Refuse another softmax scale where a cache of a text goes on."""
    for step in steps:
        if step.rule is None or step.rule.sharpness == 1:
            continue
        where = f"rules[{recipe.rules.index(step.rule)}].sharpness"
        if step.site.causal:
            raise RecipeError(
                f"{where}: is for diffusion models; {step.site.full_name} is of a language model"
            )


def require_for_text(recipe: Recipe) -> None:
    """Refuse, before there is a model, a recipe whose method for every layer needs more than text has.

    Raises:
        RecipeError: if there is such a rule.
    """
    layer = Site("", "", torch.nn.Module(), layer=0, n_layers=1, heads=1, causal=True)
    _require_methods(recipe, [Step(layer, rule) for rule in recipe.rules if rule.match == "*"])


def _require_methods(recipe: Recipe, steps: Sequence[Step]) -> None:
    """Try every method on zeros: on a small grid, or, for a language model, on a text, which has none."""
    for causal, (number, rule) in product((True, False), enumerate(recipe.rules)):
        sites = (step.site for step in steps if step.rule is rule and step.site.causal == causal)
        site = next(sites, None)
        if site is None:
            continue
        grid = None if causal else rule.policy.only_grid or CHECK_GRID
        heads, tokens = (1, CHECK_TOKENS) if grid is None else (site.heads, grid.tokens)
        zeros = torch.zeros(1, 1, 1, 16, device="cpu").expand(1, heads, tokens, 16)
        context = Context(grid=grid, layer=site.layer, n_layers=site.n_layers)
        policy = rule.policy if causal else at_progress(rule.policy, 0.0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                require_layout(policy, policy.layout(zeros, zeros, grid, context))
        except ValueError as error:
            raise RecipeError(f"rules[{number}].policy: {error}") from error


def require_layout(policy: Policy, layout: object) -> None:
    """Refuse a user's method that does not do what `Policy.layout` says.

    Raises:
        ValueError: if it returns something else than a layout.
    """
    if not isinstance(layout, BlockLayout):
        name = type(policy).__name__
        raise ValueError(f"{name}.layout must return a BlockLayout, got {type(layout).__name__}")


def matches(pattern: str, site: Site) -> bool:
    """Whether a glob names a site, with or without its component."""
    return fnmatchcase(site.name, pattern) or fnmatchcase(site.full_name, pattern)


def _unused(rule: Rule, sites: Sequence[Site]) -> str:
    shadowed = sum(matches(rule.match, site) for site in sites)
    if shadowed:
        return f"{rule.match!r} matches {shadowed} sites, but earlier rules take them all"
    example = nearest(rule.match, [site.name for site in sites[:1]])
    return f"{rule.match!r} matches none of the {len(sites)} sites; {example}"
