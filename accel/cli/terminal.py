"""What the command line prints: all text passes through here, without control characters."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from accel.plain_text import plain

NARROWEST = 40


def say(text: object = "") -> None:
    """A line on standard output."""
    print(plain(text))


def write(text: object) -> None:
    """Text on standard output, seen at once, with no end of line."""
    print(plain(text), end="", flush=True)


def complain(text: object) -> None:
    """A line on standard error, written whole: several processes may write there."""
    sys.stderr.write(f"{plain(text)}\n")
    sys.stderr.flush()


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None, fold: bool = False
) -> None:
    """A table on standard output; the first column is text, the others are numbers unless they `fold`."""
    table = Table(title=None if title is None else Text(plain(title)))
    for number, column in enumerate(columns):
        right = number > 0 and not fold
        table.add_column(Text(plain(column)), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console = Console(highlight=False, markup=False, emoji=False)
    # Rich drops the cells of a table that does not fit at all.
    console.width = max(console.width, NARROWEST)
    console.print(table)


def make_streams_safe() -> None:
    """Write characters that a stream cannot encode as escapes, so that they stop no sentence."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    warnings.formatwarning = _warning


def _warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    return f"{category.__name__}: {plain(message)}\n"
