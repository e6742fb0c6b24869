"""What can be accelerated, checked before anything is touched: each mistake with what to do instead."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from torch import nn

from accel.patches.diffusers.declined import why_not
from accel.patches.diffusers.family import FAMILIES, family_of
from accel.patches.models import PIPELINE_COMPONENTS, is_language_model, supported_models


def require_models(pipe_or_model: Any) -> dict[str, nn.Module]:
    """The supported models of a pipeline by component name, or a bare one under the empty name.

    Raises:
        TypeError: if it holds none; says what the object is and what to pass instead.
    """
    if isinstance(pipe_or_model, type):
        raise TypeError(f"{pipe_or_model.__name__} is a class; pass a loaded pipeline or model of it")
    models = supported_models(pipe_or_model)
    if not models:
        raise TypeError(instead_of(pipe_or_model) or unsupported(pipe_or_model))
    return models


def instead_of(thing: Any) -> str | None:
    """What to pass instead of something that is easily taken for a model; None for other objects."""
    name = type(thing).__name__
    if thing is None:
        return "expected a pipeline or a model, got None"
    if isinstance(thing, str | PathLike):
        return (
            f"{str(thing)!r} is a name, not a model: load it first, for example with "
            "DiffusionPipeline.from_pretrained, and pass what that returns"
        )
    if isinstance(thing, Mapping):
        return f"{name} holds weights or parts, not a model: pass the model that they are loaded into"
    if isinstance(thing, Sequence):
        return f"{name} is not a model: call accelerate_model for each of the {len(thing)} things in it"
    if not isinstance(thing, nn.Module):
        return None
    for path, module in thing.named_modules():
        if path and supported_models(module):
            return (
                f"{name} is a wrapper around the {type(module).__name__} at .{path}: pass that, "
                f"accelerate_model(x.{path}); the wrapper is not changed"
            )
    return None


def unsupported(thing: Any) -> str:
    """Why an object cannot be accelerated, and what can."""
    name = type(thing).__name__
    parts = getattr(thing, "components", None)
    found = (
        f" Its models are {', '.join(sorted({type(p).__name__ for p in parts.values()}))}." if parts else ""
    )
    candidates = [thing] if parts is None else [parts.get(part) for part in PIPELINE_COMPONENTS]
    why = "".join(f" {_why_not(model)}" for model in candidates if isinstance(model, nn.Module))
    known = f"causal language models of transformers, and of diffusers {', '.join(FAMILIES)}"
    return f"{name} holds no supported model.{found}{why} Supported are {known}."


def _why_not(model: nn.Module) -> str:
    if type(model).__module__.partition(".")[0] == "transformers":
        return (
            f"{type(model).__name__} has no causal self-attention that transformers lets others replace: it "
            "is not autoregressive, or runs its own attention."
        )
    return why_not(model)


def require_scheduler(scheduler: Any, pipe_or_model: Any, bare: bool) -> None:
    """Refuse a scheduler that cannot count, or that would not be used.

    Raises:
        TypeError: if it is not a scheduler, or the object is a pipeline, which has one.
    """
    if scheduler is None:
        return
    if not bare and scheduler is not getattr(pipe_or_model, "scheduler", None):
        raise TypeError(
            f"scheduler is for bare models; {type(pipe_or_model).__name__} counts with its own: set "
            "pipe.scheduler, before or after accelerating"
        )
    if isinstance(scheduler, type) or not hasattr(scheduler, "timesteps"):
        what = scheduler.__name__ if isinstance(scheduler, type) else type(scheduler).__name__
        raise TypeError(f"scheduler must be one of diffusers', an object with timesteps, got {what}")


def warn_of_foreign_processors(models: Mapping[str, nn.Module]) -> None:
    """Warn about attention with a foreign processor, which is not replaced."""
    theirs = {
        f"{component}.{name}" if component else name: type(module.processor).__name__
        for component, model in models.items()
        for name, module in foreign_modules(model)
    }
    if not theirs:
        return
    kinds = ", ".join(sorted(set(theirs.values())))
    warnings.warn(
        f"left alone, since a processor that is not diffusers' own runs there ({kinds}): {', '.join(theirs)}",
        stacklevel=4,
    )


def foreign_modules(model: nn.Module) -> list[tuple[str, Any]]:
    """The attention modules of a diffusers model whose processor is neither diffusers' nor this package's."""
    family = None if is_language_model(model) else family_of(model)
    if family is None:
        return []
    ours = {*family.processors, *family.processors.values()}
    return [
        (name, module)
        for name, module in family.attention_modules(model)
        if type(module.processor) not in ours
        and type(module.processor).__module__.partition(".")[0] != "diffusers"
    ]
