"""Pages in Markdown: tables, and the part of a page that a script writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def markdown(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells)


def insert(page: Path, name: str, text: str) -> None:
    """Replace what is between the markers of `name`; a page that does not exist gets them.

    Raises:
        ValueError: if the page has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = page.read_text(encoding="utf-8") if page.exists() else f"{begin}{end}\n"
    if begin not in whole or end not in whole:
        raise ValueError(f"{page} has no lines {begin!r} and {end!r} to write between")
    before, _, rest = whole.partition(begin)
    page.write_text(f"{before}{begin}\n{text.rstrip()}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
