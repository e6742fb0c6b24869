"""whole_file: a file appears under its name complete and on the disk, or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEFTOVER = re.compile(r"\..+-[0-9a-f]{16}\.part(\.\w+)?")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write: it takes the place of `path`, or vanishes if anything is raised.

    A process that is killed leaves at most the file beside it, whose name begins with a dot.

    Raises:
        OSError: if the folder does not exist or cannot be written.
    """
    # Not the process's number: processes of several machines may share a folder.
    partial = path.with_name(f".{path.stem}-{secrets.token_hex(8)}.part{path.suffix}")
    try:
        partial.touch()
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write to this folder ({error.strerror})", str(path.parent)
        ) from error
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _keep_the_name(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left in a folder; nobody may be writing there."""
    for left in folder.glob(".*"):
        if LEFTOVER.fullmatch(left.name):
            left.unlink(missing_ok=True)


def _keep_the_name(folder: Path) -> None:
    """Bring a folder's new names to the disk, where the system has a way to ask for it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
