"""Manifest: what a folder of videos holds, one JSON line per video, shared by any number of processes.

Every finished video has its own record, written after it. The manifest is all records in one file; it is
made again whenever a video is finished, and can be made again from them at any time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from accel.files import write_whole
from accel.mistake import Mistake

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
        """Make the folders where they are missing, and the records that only the manifest still holds.

        Raises:
            Mistake: if the folder has a manifest that something else wrote, which would be replaced.
            OSError: if that cannot be done.
        """
        held = self._held()
        self.records.mkdir(parents=True, exist_ok=True)
        for record in held:
            if not (path := self.records / f"{record['name']}.json").exists():
                _write_record(path, record)

    def _held(self) -> list[dict[str, Any]]:
        """The records in the manifest."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        held = [_parsed(line) for line in lines]
        ours = [record for record in held if record is not None and _is_ours(record)]
        if len(ours) < len(held):
            raise Mistake(
                f"{self.path}: something else than accel generate --prompts wrote it, and it would be "
                "replaced; take another folder, or move it"
            )
        return ours

    def add(self, name: str, record: dict[str, Any]) -> None:
        """Record a video that has been written under its name, and merge."""
        _write_record(self.records / f"{name}.json", record)
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
            read = (_read(path) for path in sorted(there))
            found = [record for record in read if record is not None and _is_ours(record)]
            write_whole(self.path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in found))
            merged = there


def fingerprint(*parts: Any) -> str:
    """A hash of plain data: equal for equal data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _is_ours(record: dict[str, Any]) -> bool:
    """Whether `add` was given it, under a name that is no path."""
    texts = [record.get(key) for key in ("name", "file", "fingerprint")]
    return all(isinstance(text, str) for text in texts) and Path(str(texts[0])).name == texts[0]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _write_record(path: Path, record: dict[str, Any]) -> None:
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
