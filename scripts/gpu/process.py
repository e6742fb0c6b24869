"""Run one stage of the GPU check in its own process, and survive whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from scripts.gpu.record import Record
from scripts.gpu.stages import OUT, ROOT, Stage
from scripts.row_file import POISONED, Row, read_rows

ATTEMPTS = 5  # one more after each hang or crash
POLL = 0.5  # seconds
LAST_WORDS = 4000  # characters


def run_stage(stage: Stage, arguments: list[str], record: Record, limit: float) -> dict[str, Any]:
    """Run it, again after each crash, which costs one row; returns its entry, which is also in the record.

    The record has every row within two seconds of its measurement.
    """
    started, deadline = time.monotonic(), time.monotonic() + limit
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows.jsonl", Path(folder) / "log"
        write_rows(rows, [] if stage.each_machine else record.rows_so_far(stage.name))

        def entry(status: str) -> dict[str, Any]:
            found = {
                "status": status,
                "seconds": round(time.monotonic() - started, 1),
                "arguments": arguments,
            }
            words = log.read_text(errors="replace")[-LAST_WORDS:] if log.exists() else ""
            return {**found, "rows": read_rows(rows)[0], "output": words}

        def save() -> bool:
            return record.put(stage.name, entry("running"), at_once=False)

        for attempt in range(1, ATTEMPTS + 1):
            code = run_once(stage, arguments, rows, log, deadline, save)
            results, lost = read_rows(rows)
            if code is None:
                break
            ended = f"its process ended with exit status {code}: it hung or crashed"
            write_rows(rows, [*results, *({"key": key, "failed": ended} for key in lost)])
            if (not lost and code != POISONED) or attempt == ATTEMPTS:
                break
        final = entry(status_of(code, read_rows(rows)[0]))
    record.put(stage.name, final)
    return final


# A new session, unlike a group, would outlive this program if that is killed.
def run_once(
    stage: Stage, arguments: list[str], rows: Path, log: Path, deadline: float, save: Callable[[], bool]
) -> int | None:
    """The exit status; None if the time was up and it had to be ended."""
    command = [str(rows) if word == OUT else word for word in (*stage.command, *arguments)]
    changes = {name: str(rows) if value == OUT else value for name, value in stage.environment.items()}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changes}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, process_group=0
        )
    size = -1
    try:
        while (code := process.poll()) is None:
            if time.monotonic() > deadline:
                return None
            written = rows.stat().st_size
            if written != size and save():
                size = written
            time.sleep(POLL)
        return code
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """End a process and its children: first gently, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            if number == signal.SIGKILL:
                return


def status_of(code: int | None, rows: list[Row]) -> str:
    """passed, failed, or incomplete where the time was up."""
    if code is None:
        return "incomplete"
    # pytest exits with 1 if tests failed, as their rows say, and with 5 if there were none left to run.
    failed = any("failed" in row or row.get("outcome") == "failed" for row in rows)
    return "failed" if failed or code not in (0, 5) else "passed"


def write_rows(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
