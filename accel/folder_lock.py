"""FolderLock: a run's processes hold a folder together, and a second run is told so.

The system releases the lock when a process ends, however it ends. Where it has no such lock (Windows, some
network file systems) nothing is held.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


class FolderLock:
    """The lock of one folder, as one process of a run holds it.

    Args:
        folder: must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None

    def take_alone(self) -> None:
        """Hold the folder alone.

        Raises:
            BlockingIOError: if a process of another run holds it.
        """
        if fcntl is not None:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def wait(self) -> None:
        """Hold the folder alone, as soon as nobody else does."""
        if fcntl is not None:
            self._lock(fcntl.LOCK_EX)

    def share(self) -> None:
        """Let the other processes of this run hold it too; they call this one only."""
        if fcntl is not None:
            self._lock(fcntl.LOCK_SH | fcntl.LOCK_NB)

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lock(self, kind: int) -> None:
        if self._file is None:
            self._file = (self.folder / LOCK).open("ab")
        try:
            fcntl.flock(self._file, kind)
        except BlockingIOError as error:
            self.release()
            raise BlockingIOError(
                error.errno, "another run is writing to this folder", str(self.folder)
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
