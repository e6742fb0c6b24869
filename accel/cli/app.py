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
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("ACCEL_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        print("(ACCEL_DEBUG=1 shows where this was raised)", file=sys.stderr)
        sys.exit(2)
