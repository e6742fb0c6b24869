"""--policy module:Class: the user's own method, for every command that takes --set."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.main import get_command

from accel.mistake import Mistake

HELP = (
    "Your own method, as module:Class, importable from this folder. It replaces the method of the model's "
    "recipe; with --recipe, the recipe may name it."
)


def with_policy(command: Any) -> Any:
    """The command, or each of a group's, with the option, if it changes recipes."""
    for below in getattr(command, "commands", {}).values():
        with_policy(below)
    if any(parameter.name == "changes" for parameter in command.params):
        command.params += _options()
        command.invoke = partial(_invoke, command.invoke)
    return command


def _options() -> list[Any]:
    """What typer makes of the option."""

    def command(policy: Annotated[str | None, typer.Option(help=HELP)] = None) -> None:
        pass

    alone = typer.Typer(add_completion=False)
    alone.command()(command)
    return get_command(alone).params


def _invoke(run: Callable[[Any], Any], ctx: Any) -> Any:
    policy = ctx.params.pop("policy")
    if policy is not None:
        name = _register(policy)
        if ctx.get_parameter_source("recipe").name == "DEFAULT":
            ctx.params["changes"] = [f"method={name}", *(ctx.params["changes"] or [])]
    return run(ctx)


def _register(policy: str) -> str:
    """Import a method by name and let recipes name it; returns its name there."""
    from accel.policies.registry import register_policy

    module, colon, name = policy.partition(":")
    if not (module and colon and name):
        raise Mistake(f"--policy {policy}: expected module:Class, for example my_methods:Near")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), name)
        return register_policy(found).method
    except Exception as error:
        raise Mistake(f"--policy {policy}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
