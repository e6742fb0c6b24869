"""The `accel` command: its subcommands, and what a mistake, a failure and a defect look like."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from accel.cli.policy import with_policy
from accel.cli.terminal import complain, make_streams_safe, say
from accel.mistake import Mistake
from accel.patches.class_names import known_name

# A command's module is imported when the command is called: `accel --help` imports no PyTorch.
COMMANDS = {
    "generate": "Generate a video or an image, accelerated by a recipe, and say what it took.",
    "compare": "Compare an accelerated pipeline with the dense one: speed and quality, from its tensors.",
    "complete": "Continue a prompt with a language model, accelerated by a recipe, and say what it took.",
    "tune": "Find the fastest recipe that meets a target of quality or speed on your own model.",
    "inspect": "Show where a model's attention is, its token grid at a size, and what a recipe would do.",
    "doctor": "Say what this machine has and which kernel tier it gets, and why.",
    "bench": "Time a language model's prefill or decode, dense and accelerated.",
    "ui": "Serve a page in the browser: type a prompt, see dense and accelerated side by side.",
    "recipes": "The recipes: which method goes where.",
}


class LateGroup(TyperGroup):
    """A group that lists its commands by name and help, and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _named(cmd_name, COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if command is None else command_of(name or ""), rest


def command_of(name: str) -> Any:
    """A subcommand, its module imported now."""
    what = getattr(import_module(f"accel.cli.commands.{name}"), name)
    if isinstance(what, typer.Typer):
        group = get_command(what)
        group.name = name
        return with_policy(group)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(what)
    return with_policy(get_command(alone))


def _named(name: str, text: str) -> Any:
    alone = typer.Typer(add_completion=False)
    alone.command(name, help=text)(lambda: None)
    return get_command(alone)


def _print_version(asked: bool) -> None:
    if asked:
        import accel

        say(f"sparse-accel {accel.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="accel",
    cls=LateGroup,
    help="Make diffusers and transformers models faster without training: block-sparse attention by recipe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def accel(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Run the command line. Exit code 0 is success, 1 a failure, 2 a mistake in what was asked for."""
    make_streams_safe()
    try:
        app()
    except Exception as error:
        if os.environ.get("ACCEL_DEBUG"):
            raise
        sentence = sentence_of(error)
        if sentence is None:
            complain(traceback.format_exc().rstrip())
            complain("error: this is a defect in sparse-accel or in a library, not your mistake.")
            complain("Please report it with the lines above and what `accel doctor` prints.")
            sys.exit(1)
        complain(f"error: {sentence}")
        complain("(ACCEL_DEBUG=1 shows where this was raised)")
        sys.exit(2 if isinstance(error, Mistake) else 1)


def sentence_of(error: Exception) -> str | None:
    """What to say of a mistake or of a failure of the machine; None if the error is a defect."""
    if isinstance(error, Mistake):
        return str(error)
    if _is_out_of_memory(error):
        return f"out of memory: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}"
    return None


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    ran_out = "out of memory" in text or "can't allocate memory" in text
    of_torch = known_name(error, ("OutOfMemoryError",)) is not None
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and (of_torch or ran_out))
