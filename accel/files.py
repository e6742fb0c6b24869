"""Files that other processes may also write: written whole, in folders that can be locked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from accel.mistake import Mistake

if TYPE_CHECKING:
    from filelock import ReadWriteLock

LOCK = ".lock"
T = TypeVar("T")
LEFTOVER = re.compile(r"\..+-[0-9a-f]{16}\.part(\.\w+)?")


def text_of(path: Path, called: str, refusal: type[Mistake] = Mistake) -> str:
    """What a UTF-8 file holds.

    Raises:
        Mistake: of the class `refusal`, if it cannot be read; the file is called `called` there.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise refusal(f"{called}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise refusal(f"{called}: is not UTF-8 text") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file next to `path` to write to: it replaces `path`, or is removed if anything is raised.

    A killed process leaves at most the temporary file, whose name begins with a dot.

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


def write_whole(path: Path, text: str) -> Path:
    """Write text, UTF-8, whole or not at all; returns the path.

    Raises:
        OSError: if the folder does not exist or cannot be written.
    """
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left in a folder; no process may be writing there."""
    for left in folder.glob(".*"):
        if LEFTOVER.fullmatch(left.name):
            left.unlink(missing_ok=True)


class Results:
    """Results by key in a folder's `results.json`, written at once, so that an interrupted run can continue.

    Args:
        folder: is made if it is missing.

    Raises:
        Mistake: if the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "results.json"
        try:
            self._found = json.loads(self._file.read_bytes()) if self._file.exists() else {}
        except ValueError:
            raise self._damaged from None
        if not isinstance(self._found, dict):
            raise self._damaged

    @staticmethod
    def key(kind: str, about: Any) -> str:
        """The key of a result: its kind, and a hash of everything that it depends on, as JSON."""
        return f"{kind}-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]}"

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def read(self, key: str, build: Callable[[Any], T]) -> T:
        """What `build` makes of the result that is kept under a key.

        Raises:
            Mistake: if it can make nothing of it.
        """
        try:
            return build(self._found[key])
        except (TypeError, ValueError, KeyError):
            raise self._damaged from None

    def keep(self, key: str, value: Any) -> None:
        self._found[key] = value
        write_whole(self._file, json.dumps(self._found, indent=1))

    @property
    def _damaged(self) -> Mistake:
        return Mistake(f"{self._file}: is damaged; delete it to measure again")


def _keep_the_name(folder: Path) -> None:
    """Flush a folder's new names to the disk, where the system supports it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder for a block, made if it is missing, without what killed processes left there.

    Raises:
        BlockingIOError: if another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    lock.hold()
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


class FolderLock:
    """The lock of one folder, held by the processes of one run; the system releases it when they end.

    Nothing is held where the file system has no locks.

    Args:
        folder: must exist before the lock is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: ReadWriteLock | None = None

    def hold(self, alone: bool = True, wait: bool = False) -> None:
        """Hold the folder: alone, or with the other processes of this run.

        Args:
            wait: until no process of another run holds it.

        Raises:
            BlockingIOError: if one does and this does not wait.
        """
        import sqlite3

        from filelock import ReadWriteLock, Timeout

        self.release()
        lock = ReadWriteLock(self.folder / LOCK, is_singleton=False)
        try:
            (lock.acquire_write if alone else lock.acquire_read)(blocking=wait)
            self._held = lock
        except Timeout:
            raise BlockingIOError(
                errno.EAGAIN, "another run is writing to this folder", str(self.folder)
            ) from None
        except sqlite3.OperationalError:
            return

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
