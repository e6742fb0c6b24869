"""Documents: run a page's snippets and commands in order, as a reader would, in one process.

python tests/support/documents.py page.md     # in an empty folder
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import typing
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
SAVED_AS = {"yaml": "mine.yaml", "text": "prompts.txt", "json": "prompts.jsonl"}


class Block(typing.NamedTuple):
    """What a page shows: "python", "sh", a file to save, or nothing to run."""

    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def commands_of(block: Block) -> list[str]:
    """The `accel` commands of a block, without what is said of them."""
    lines = block.text.splitlines() if block.language in ("sh", "") else []
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.startswith("accel ")]


def command(line: str) -> tuple[int, str]:
    """The exit code of a command line and what it said, run in this process."""
    from accel.cli.app import main

    said = io.StringIO()
    sys.argv = shlex.split(line)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as stopped:
        return int(stopped.code or 0), said.getvalue()
    return 0, said.getvalue()


def run(page: Path) -> None:
    """Run everything on a page; the names of its Python live from one snippet to the next."""
    names: dict = {"__name__": page.stem}
    sys.modules[page.stem] = type(sys)(page.stem)
    for block in blocks_of(page):
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)
        elif block.language in SAVED_AS:
            Path(SAVED_AS[block.language]).write_text(block.text, encoding="utf-8")
        for line in commands_of(block):
            code, said = command(line)
            assert code == 0, f"{line}: {code}\n{said}"


if __name__ == "__main__":
    run(Path(sys.argv[1]))
