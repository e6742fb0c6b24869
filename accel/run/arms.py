"""Arms: runs of one pipeline that are compared, each watched, after a warm-up that is thrown away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from accel.recipe.override import override
from accel.recipe.recipe import Recipe
from accel.run.generate import Generated, generate
from accel.run.settings import GenerateSettings
from accel.run.watcher import WARM_UP, Watcher

STEPS = 2  # fewer make no schedule of MiniMax-H3


@dataclass(frozen=True)
class Arm:
    """One run.

    Args:
        inside: makes the context it runs in.
    """

    settings: GenerateSettings
    recipe: Recipe
    inside: Callable[[], AbstractContextManager] = nullcontext


def warm_up(arm: Arm) -> dict[str, Arm]:
    """The arm to begin with: a few steps of another one, sparse where it is dense for a while.

    The first run of a process pays for allocation and compilation, and whichever run came first would look
    slow.
    """
    few = min(STEPS, arm.settings.num_inference_steps or STEPS)
    all_sparse = override(arm.recipe, {"dense_steps": 0, "dense_layers": 0})
    return {WARM_UP: Arm(arm.settings.model_copy(update={"num_inference_steps": few}), all_sparse)}


def run_arms(pipe: Any, arms: Mapping[str, Arm], watcher: Watcher) -> dict[str, Generated]:
    """What each arm made, in their order, without the warm-up."""
    runs = {}
    for number, (name, arm) in enumerate(arms.items(), start=1):
        watcher.begins(name, number, len(arms))
        with arm.inside():
            made = generate(pipe, arm.settings, arm.recipe, watcher=watcher)
        watcher.made(name, made)
        if name != WARM_UP:
            runs[name] = made
    return runs
