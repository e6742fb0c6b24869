"""Skipping: what diffusers' hooks do to a forward: leave modules out of it, or blur queries."""

from __future__ import annotations

from typing import Any

from torch import nn


def may_be_skipped(model: nn.Module, name: str) -> bool:
    """Whether a cache or a skipped layer stands between a model and its module of that dotted name."""
    parts = name.split(".")
    path = [model, *(model.get_submodule(".".join(parts[: n + 1])) for n in range(len(parts)))]
    return any(may_skip(module) for module in path)


def may_skip(module: Any) -> bool:
    """Whether a hook of diffusers, or cache-dit, may put something in a forward's place."""
    registry = getattr(module, "_diffusers_hook", None)
    hooks = registry.hooks.values() if registry is not None else ()
    return getattr(module, "_is_cached", False) or any(hasattr(hook, "new_forward") for hook in hooks)


def blurs_queries(model: nn.Module) -> bool:
    """Whether smoothed-energy guidance is at work, which takes the order of the tokens for that of pixels."""
    registries = (getattr(module, "_diffusers_hook", None) for module in model.modules())
    hooks = (hook for registry in registries if registry is not None for hook in registry.hooks.values())
    return any(type(hook).__name__ == "SmoothedEnergyGuidanceHook" for hook in hooks)
