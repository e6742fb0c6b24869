"""Shipped recipes of language models, set to a wanted density.

One parameter of a recipe is varied until what it executes, dense layers and dense queries included, is what
is wanted: the density of its selector (also where the recipe has a mass), of its search, or the reach of its
window. A method may always keep more than is wanted; that is then its lowest density. Where density depends
on the text, it is set on noise, and a text gives another density.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from accel import Recipe
from accel.patches.context import Context
from accel.policies.compose import Composed
from accel.policies.hip import Hip
from accel.policies.parts.flex_prefill import FlexPrefill
from accel.policies.parts.selectors import TopK
from accel.policies.parts.vertical_slash import VerticalSlash
from accel.policies.permuted import Permuted
from accel.sites.sequence.fixed_blocks import with_dense_queries

LAYERS = 4
CHECK_WIDTH = 16
TOLERANCE = 0.004
STEPS = 12
# The recipe's 1,280 keys for every query are most of a short prompt; the budget is to be searched for.
HIP_SINK, HIP_WINDOW = 64, 128

Turn = Callable[[Any, float, int], Any]


def turn_selector(policy: Composed | Permuted, knob: float, length: int) -> Any:
    """A share of the blocks; what a top-k selector spends by row, head or layer stays in proportion."""
    select = policy.select
    if not isinstance(select, TopK) or not isinstance(select.density, float):
        return replace(policy, select=TopK(knob))
    row_density = min(select.row_density * knob / select.density, knob)
    return replace(policy, select=replace(select, density=knob, row_density=row_density, least_blocks=0))


def turn_window(policy: Composed, knob: float, length: int) -> Composed:
    return replace(policy, always=replace(policy.always, recent=round(knob * length)))


def turn_search(policy: Hip, knob: float, length: int) -> Hip:
    return replace(policy, density=knob, sink=HIP_SINK, window=HIP_WINDOW)


def turn_lines(policy: Composed, knob: float, length: int) -> Composed:
    assert isinstance(policy.choose, VerticalSlash)
    slashes = max(round(knob * length), 1)
    fewer = {"verticals": max(slashes // 6, 1), "slashes": slashes, "first": 1, "nearest": 1}
    return replace(policy, choose=replace(policy.choose, **fewer))


def turn_mass(policy: Composed, knob: float, length: int) -> Composed:
    assert isinstance(policy.choose, FlexPrefill)
    return replace(policy, choose=replace(policy.choose, mass=knob))


def turn_of(policy: Any) -> Turn | None:
    """How a policy is made sparser; None if this script does not know."""
    if isinstance(policy, Hip):
        return turn_search
    if isinstance(policy, Permuted) or (isinstance(policy, Composed) and policy.score is not None):
        return turn_selector
    if isinstance(policy, Composed) and isinstance(policy.choose, VerticalSlash):
        return turn_lines
    if isinstance(policy, Composed) and isinstance(policy.choose, FlexPrefill):
        return turn_mass
    if isinstance(policy, Composed) and policy.always.recent:
        return turn_window
    return None


def with_policy(recipe: Recipe, policy: Any) -> Recipe:
    (rule,) = recipe.rules
    return recipe.model_copy(update={"rules": (rule.model_copy(update={"policy": policy}),)})


def solve(recipe_at: Callable[[float], Recipe], density: float, length: int) -> Recipe:
    """The recipe whose density is nearest to what was asked for; the lowest if all are above it."""
    low, high = 1e-4, 1.0
    below, above = executed(recipe_at(low), length), executed(recipe_at(high), length)
    if density >= above:
        return recipe_at(high)
    best, missed = low, abs(below - density)
    for _ in range(STEPS):
        if below >= density or missed < TOLERANCE:
            break
        # Density is almost linear in the knob; staying off the ends makes the bracket shrink where it is not.
        share = min(max((density - below) / (above - below), 0.1), 0.9)
        knob = low + share * (high - low)
        found = executed(recipe_at(knob), length)
        if abs(found - density) < missed:
            best, missed = knob, abs(found - density)
        if found > density:
            high, above = knob, found
        else:
            low, below = knob, found
    return recipe_at(best)


def executed(recipe: Recipe, length: int) -> float:
    """Executed blocks / blocks of dense causal attention, over all layers, on noise."""
    q, k = torch.randn(2, 1, 1, length, CHECK_WIDTH, generator=torch.Generator().manual_seed(0))
    layout = recipe.rules[0].policy.layout(q, k, None, Context())
    sparse = with_dense_queries(layout, recipe.schedule.dense_queries).density
    reasons = [recipe.schedule.dense_reason(Context(layer=n, n_layers=LAYERS), length) for n in range(LAYERS)]
    dense = sum(reason is not None for reason in reasons) / LAYERS
    return dense + (1 - dense) * float(sparse)
