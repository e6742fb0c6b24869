"""Record: all that the GPU check found, in one JSON file that is complete at every moment."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from accel.files import whole_file
from accel.machine.versions import device_name, versions

ROOT = Path(__file__).parents[2]
MEASURED = ("accel", "kernels", "patches", "recipes")
FINISHED = ("passed", "failed")

Entry = dict[str, Any]


class Record:
    """The file at `path`: the machine, and an entry for every stage with its `status`, `rows`, `sources`.

    Args:
        resume: keep what the file has; otherwise start a new one.
    """

    def __init__(self, path: Path, machine: Entry, resume: bool) -> None:
        self.path, self.machine, self._lock = path, machine, threading.Lock()
        self.stages: dict[str, Entry] = {}
        self._written = 0.0
        if resume and path.exists():
            self.stages = json.loads(path.read_text())["stages"]

    def put(self, name: str, entry: Entry, at_once: bool = True) -> bool:
        """Set a stage's entry, with its code and machine, and write the file: at once, or unless it was
        written within the last second. Returns whether it was."""
        with self._lock:
            wait = not at_once and time.monotonic() < self._written + 1
            about = {name: self.machine[name] for name in ("device", "sources", "commit")}
            date = datetime.now(UTC).isoformat(timespec="seconds")
            self.stages[name] = {**about, "date": date, **entry}
            if wait:
                return False
            with whole_file(self.path) as draft:
                draft.write_text(json.dumps({"machine": self.machine, "stages": self.stages}, indent=1))
            self._written = time.monotonic()
            return True

    def finished(self, name: str) -> bool:
        """Whether a stage has run to its end on this code and kind of machine."""
        return self._is_current(name) and self.stages[name]["status"] in FINISHED

    def rows_so_far(self, name: str) -> list[Entry]:
        """What an earlier run found before it was ended, on this code and kind of machine."""
        return self.stages[name].get("rows", []) if self._is_current(name) else []

    def _is_current(self, name: str) -> bool:
        entry = self.stages.get(name, {})
        return all(entry.get(key) == self.machine[key] for key in ("device", "sources"))


def machine(commit: str | None) -> Entry:
    """The machine and the code that the numbers belong to: `sources` is a hash of the code.

    Args:
        commit: needed if the code is not a git checkout.
    """
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    facts = {"commit": commit or asked.stdout.strip() or "unknown", "sources": sources()}
    if not torch.cuda.is_available():
        return {"device": device_name("cpu"), **facts, **versions()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": device_name("cuda"),
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "processors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "platform": platform.platform(),
        **facts,
        **versions(),
    }


def sources() -> str:
    """A hash of all code and recipes that are measured, without the scripts that measure them."""
    files = sorted(
        path
        for folder in MEASURED
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml") and "__pycache__" not in path.parts
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
