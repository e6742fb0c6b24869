"""The `accel` command: its subcommands, and what a mistake looks like."""

from __future__ import annotations

import os
import sys

import typer

from accel.cli.bench import bench
from accel.cli.compare import compare
from accel.cli.complete import complete
from accel.cli.doctor import doctor
from accel.cli.generate import generate
from accel.cli.inspect import inspect
from accel.cli.recipes import recipes
from accel.sites.faults import kind_of

app = typer.Typer(
    name="accel",
    help="Make diffusers and transformers models faster without training: block-sparse attention by recipe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(generate)
app.command()(compare)
app.command()(complete)
app.command()(inspect)
app.command()(doctor)
app.add_typer(bench, name="bench")
app.add_typer(recipes, name="recipes")


def main() -> None:
    """Run the command line. Exit code 0 is success, 1 a failure, 2 a mistake in what was asked for."""
    try:
        app()
    except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
        out_of_memory = kind_of("planning", error) == "memory"
        if os.environ.get("ACCEL_DEBUG") or (isinstance(error, RuntimeError) and not out_of_memory):
            raise
        print(f"error: {'out of memory: ' if out_of_memory else ''}{error}", file=sys.stderr)
        print("(ACCEL_DEBUG=1 shows where this was raised)", file=sys.stderr)
        sys.exit(1 if out_of_memory else 2)
