"""Kernel cases in a process of their own: `TRITON_INTERPRET` is read when Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_cases(cases: Path, **environment: str) -> None:
    """Run a file of tests under an environment; it must pass whole, with none left out."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(cases)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not {"skipped", "deselected"} & set(done.stdout.split()), done.stdout
