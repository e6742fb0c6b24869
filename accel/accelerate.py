"""accelerate_model, restore_model, accelerated and summary: the one line, its undo and its account."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from accel.apply.patch import Patch, apply
from accel.apply.plan import Plan, make_plan
from accel.apply.summary import Summary, summarize
from accel.apply.supported import require_models, require_scheduler, warn_of_foreign_processors
from accel.machine import tier_check, tier_timing
from accel.patches.diffusers.forwards.clock import Clock
from accel.patches.hook import hook_of
from accel.patches.models import find_sites, supported_models
from accel.policies.policy import Policy
from accel.recipe.choose import default_recipe, default_recipe_name
from accel.recipe.files import as_recipe
from accel.recipe.override import override
from accel.recipe.recipe import Recipe

Model = TypeVar("Model")
AnyRecipe = Recipe | Policy | Mapping[str, Any] | str | Path


def accelerate_model(
    pipe_or_model: Model,
    recipe: AnyRecipe | None = None,
    *,
    scheduler: Any = None,
    **overrides: Any,
) -> Model:
    """Make a loaded model's attention block-sparse, by a recipe. A second call replaces the first recipe.

    A kernel that runs only where it has passed a test is tested now, once a machine, if the model is on a GPU
    that it is made for, or otherwise before the first sparse call there.

    Args:
        pipe_or_model: a diffusers pipeline (every expert is patched, text encoders never), a bare
            transformer, or a transformers model with causal attention; compiled or not.
        recipe: a Recipe, a mapping such as a YAML file holds, the name of a shipped recipe, a YAML file, or a
            Policy alone, for all attention; None picks one for the model.
        scheduler: for a bare transformer that a loop of your own runs, the scheduler that counts its steps;
            without it, steps are counted by noise level (`1 - timestep / 1000`). A pipeline that runs the
            transformer counts by its own scheduler. Language models have no steps.
        overrides: single values of the recipe, for example `dense_steps=0.2` or `decay=0.5`.

    Returns:
        The same object. If anything fails it is as it was before, or, where an earlier recipe had been taken
        out already, without acceleration.

    Raises:
        TypeError: if the object is not a supported model or pipeline.
        RecipeError: if the recipe or an override is wrong.
    """
    models = require_models(pipe_or_model)
    bare = "" in models
    require_scheduler(scheduler, pipe_or_model, bare)
    plan = plan_for(pipe_or_model, recipe, **overrides)
    check_kernels_for(plan)
    restore_model(pipe_or_model)
    apply(plan, models, Clock(None if bare else pipe_or_model, scheduler))
    return pipe_or_model


def plan_for(pipe_or_model: Any, recipe: AnyRecipe | None = None, **overrides: Any) -> Plan:
    """What `accelerate_model` would do with these arguments. Touches nothing."""
    models = require_models(pipe_or_model)
    name = (
        default_recipe_name(models)
        if recipe is None
        else str(recipe)
        if isinstance(recipe, str | Path)
        else ""
    )
    recipe = default_recipe(models) if recipe is None else as_recipe(recipe)
    sites = [site for component, model in models.items() for site in find_sites(model, component)]
    warn_of_foreign_processors(models)
    recipe = override(recipe, overrides)
    return replace(make_plan(sites, recipe), name=f"{name}, changed" if name and overrides else name)


def check_kernels_for(plan: Plan) -> None:
    """Check the kernels that a plan's sites will use, as far as weights show: a model still on the CPU, or
    quantised, shows it at its first sparse call."""
    steps = [(step.site, step.rule) for step in plan.matched if step.rule]
    sparse = [(site, rule.precision) for site, rule in steps if rule.policy.method != "dense"]
    projections = [getattr(site.module, "q_proj" if site.causal else "to_q", None) for site, _ in sparse]
    weights = [getattr(projection, "weight", None) for projection in projections]
    for device, dtype, head_dim, precision in {
        (weight.device, weight.dtype, len(weight) // site.heads, precision)
        for (site, precision), weight in zip(sparse, weights, strict=True)
        if isinstance(weight, Tensor)
    }:
        tier_check.check_if_unknown(device, dtype, head_dim, precision)
        tier_timing.time_if_unknown(device, dtype, head_dim)


def restore_model(pipe_or_model: Model) -> Model:
    """Remove the acceleration without a trace; does nothing if there is no acceleration. Returns the object.

    Models that were accelerated together are restored together; a warning names those of other objects.
    """
    parts = {id(part) for model in supported_models(pipe_or_model).values() for part in model.modules()}
    for patch in patches_of(pipe_or_model):
        others = [name for name, model in patch.models.items() if id(model) not in parts]
        if others:
            warnings.warn(
                f"no longer accelerated either: {', '.join(others)}, accelerated together with this "
                f"{type(pipe_or_model).__name__}. To treat experts differently, accelerate their pipeline by "
                "a recipe with rules for each, such as 'transformer_2.*'",
                stacklevel=2,
            )
        patch.remove()
    return pipe_or_model


@contextmanager
def accelerated(pipe_or_model: Model, recipe: AnyRecipe | None = None, **overrides: Any) -> Iterator[Model]:
    """`with accelerated(pipe): ...`: accelerate inside the block, restore at its end, whatever happens.

    What was in force before the block is in force again after it, with its counts.
    """
    before = patches_of(pipe_or_model)
    accelerate_model(pipe_or_model, recipe, **overrides)
    try:
        yield pipe_or_model
    finally:
        restore_model(pipe_or_model)
        for patch in before:
            patch.put_in()


def summary(pipe_or_model: Any) -> Summary:
    """What the acceleration did so far: `print` it, or take `.to_dict()`.

    Raises:
        ValueError: if the object is not accelerated.
    """
    patches = patches_of(pipe_or_model)
    if not patches:
        raise ValueError(f"{type(pipe_or_model).__name__} is not accelerated; call accelerate_model first")
    return summarize(patches)


def patches_of(pipe_or_model: Any) -> list[Patch]:
    """The patches in force on an object's models, each once, and on models inside of these: the decoder of a
    language model, or of one that sees, can be accelerated by itself."""
    models = supported_models(pipe_or_model).values()
    hooks = [hook_of(part) for model in models for part in model.modules()]
    owners = {id(hook.owner): hook.owner for hook in hooks if hook is not None}
    return list(owners.values())
