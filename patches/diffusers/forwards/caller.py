"""Caller: which scheduler counts the steps of a forward, found on the call stack.

Pipelines that share a transformer each have their own scheduler, and nothing tells a forward which one
pipeline it is for. The pipeline is on the call stack, so that is where it is looked for: copies, pickles and
pipelines made after the acceleration are found too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from inspect import CO_OPTIMIZED
from types import FrameType
from typing import Any

from torch import Tensor, nn

LIBRARIES = ("torch", "accel", "accelerate", "_pytest", "pluggy")


def call_stack() -> list[FrameType]:
    """The frames that called the caller of this function, innermost first."""
    frames, frame = [], sys._getframe(1).f_back
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def calling_scheduler(model: nn.Module | None, stack: list[FrameType]) -> Any:
    """The scheduler of the pipeline that runs a model's forward; None where no pipeline does."""
    return getattr(calling_pipeline(model, stack), "scheduler", None)


def calling_pipeline(model: nn.Module | None, stack: list[FrameType]) -> Any:
    """The object with a scheduler that runs a model's forward; None if there is no such object."""
    if model is None:
        return None
    for frame in methods(stack):
        owner = first_argument(frame)
        if owner is not None and holds(owner, model) and is_scheduler(getattr(owner, "scheduler", None)):
            return owner
    return None


def scheduler_of_loop(known: Any, stack: list[FrameType], timestep: Tensor) -> Any:
    """The scheduler that the user's own loop holds in a variable, or as `scheduler` of an object in one;
    None if no scheduler is found.

    Args:
        known: the one that was named when the model was accelerated: where a loop holds it, it counts.
        timestep: another one counts only if it is at this timestep.
    """
    for frame in outside_libraries(stack):
        values = list(variables(frame).values())
        held = (getattr(value, "__dict__", {}).get("scheduler") for value in values)
        found = [thing for thing in (*values, *held) if is_scheduler(thing)]
        if any(scheduler is known for scheduler in found):
            return known
        for scheduler in found:
            if is_at(scheduler, timestep):
                return scheduler
    return None


def is_scheduler(thing: Any) -> bool:
    """Whether an object is a scheduler, as far as a step can be read from it."""
    return callable(getattr(type(thing), "set_timesteps", None)) and not isinstance(thing, type)


def is_at(scheduler: Any, timestep: Tensor) -> bool:
    """Whether the step a scheduler is at has this timestep. Costs a device read."""
    timesteps = getattr(scheduler, "timesteps", None)
    step = next((n for name in STEPS if (n := getattr(scheduler, name, None)) is not None), 0)
    if not isinstance(timesteps, Tensor) or timestep.is_meta or step >= len(timesteps):
        return False
    return math.isclose(float(timestep.max()), float(timesteps[step].max()), rel_tol=0.01)


STEPS = ("step_index", "begin_index")


def holds(owner: Any, model: nn.Module) -> bool:
    """Whether an object has a model among its attributes, itself or wrapped, for example compiled."""
    attributes = getattr(owner, "__dict__", {})
    values = [*attributes.values(), *attributes.get("_modules", {}).values()]
    modules = (value for value in values if isinstance(value, nn.Module))
    return any(part is model for module in modules for part in (module, *module.children()))


def methods(stack: list[FrameType]) -> Iterator[FrameType]:
    """The frames that are calls of functions defined in a class."""
    for frame in outside_libraries(stack):
        scopes = frame.f_code.co_qualname.split(".")
        if len(scopes) > 1 and scopes[-2] != "<locals>" and frame.f_code.co_argcount:
            yield frame


def outside_libraries(stack: list[FrameType]) -> Iterator[FrameType]:
    """The frames of code other than PyTorch's and this package's."""
    for frame in stack:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in LIBRARIES:
            yield frame


def first_argument(frame: FrameType) -> Any:
    """What a function was called with first: of a method, its object."""
    return variables(frame).get(frame.f_code.co_varnames[0])


def variables(frame: FrameType) -> dict[str, Any]:
    """The variables of a frame, copied.

    Before Python 3.13 a frame keeps the dictionary that `f_locals` makes for as long as it runs, and all that
    is in it alive: it is emptied, unless somebody else has it.
    """
    found = dict(frame.f_locals)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & CO_OPTIMIZED:
        kept = frame.f_locals
        if sys.getrefcount(kept) == UNSHARED:
            kept.clear()
    return found


UNSHARED = 3  # the frame, the variable and the argument of `getrefcount`
