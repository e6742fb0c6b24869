"""Skipping: modules that diffusers, or a cache, leaves out of a forward."""

from __future__ import annotations

from typing import Any

from torch import nn


def may_be_skipped(model: nn.Module, name: str) -> bool:
    """Whether a cache or a skipped layer is between a model and its module of that dotted name."""
    parts = name.split(".")
    path = [model, *(model.get_submodule(".".join(parts[: n + 1])) for n in range(len(parts)))]
    return any(may_skip(module) for module in path)


def may_skip(module: Any) -> bool:
    """Whether a hook of diffusers, or cache-dit, may put something in a forward's place."""
    registry = getattr(module, "_diffusers_hook", None)
    hooks = registry.hooks.values() if registry is not None else ()
    return getattr(module, "_is_cached", False) or any(hasattr(hook, "new_forward") for hook in hooks)


def introduce(routed: type, stock: type) -> None:
    """Let diffusers skip a processor as it skips the stock one; does nothing where it cannot skip that.

    diffusers looks processors up by class to perturb or skip them, for some kinds of guidance.
    """
    from diffusers.hooks._helpers import AttentionProcessorRegistry

    try:
        metadata = AttentionProcessorRegistry.get(stock)
    except ValueError:
        return
    AttentionProcessorRegistry.register(routed, metadata)
