"""Manifest: what a folder of videos holds, one JSON line per video, shared by any number of processes.

Every finished video has its own record, written after it. The manifest is all records in one file; it is
made again whenever a video is finished, and can be made again from them at any time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from accel.files import whole_file

MANIFEST = "manifest.jsonl"
RECORDS = "records"


class Manifest:
    """The records of one folder.

    Args:
        folder: of the videos.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / MANIFEST
        self.records = self.folder / RECORDS

    def create(self) -> None:
        """Make the folders where they are missing.

        Raises:
            OSError: if that cannot be done.
        """
        self.records.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, record: dict[str, Any]) -> None:
        """Record a video that has been written under its name, and merge."""
        _write(self.records / f"{name}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        self.merge()

    def find(self, name: str) -> dict[str, Any] | None:
        """The record of a complete video; None if the video or its record is missing or damaged."""
        record = _read(self.records / f"{name}.json")
        if record is None:
            return None
        video = self.folder / str(record.get("file"))
        return record if video.is_file() and video.stat().st_size == record.get("bytes") else None

    def _recorded(self) -> set[Path]:
        return {path for path in self.records.glob("*.json") if not path.name.startswith(".")}

    def merge(self) -> None:
        """Write the manifest from all records.

        Processes may do this at the same time: the last to write looks again afterwards, so that no record
        stays out.
        """
        merged: set[Path] | None = None
        while merged != (there := self._recorded()):
            found = [record for path in sorted(there) if (record := _read(path)) is not None]
            _write(self.path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in found))
            merged = there


def fingerprint(*parts: Any) -> str:
    """A hash of plain data: equal for equal data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
