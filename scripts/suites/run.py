"""Runs diffusers' and transformers' own tests: stock, with every block kept, and sparse.

python -m scripts.suites.run /path/to/diffusers diffusers --out rows
python -m scripts.suites.table rows
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from scripts.suites.groups import GROUPS
from scripts.suites.rows import row_file

ROOT = Path(__file__).parent.parent.parent
# Warnings are not filtered: some of the tests look for them.
QUIET = ["-q", "--tb=short", "--disable-warnings", "-p", "no:cacheprovider"]


def main(
    checkout: Annotated[Path, typer.Argument(help="where the library's tests are", exists=True)],
    library: Annotated[str, typer.Argument(help="diffusers or transformers")],
    out: Annotated[Path, typer.Option(help="a folder for the rows")],
    group: Annotated[list[str] | None, typer.Option(help="these groups; default: all")] = None,
    mode: Annotated[list[str] | None, typer.Option(help="stock, kept, sparse; default: all")] = None,
    seconds: Annotated[int, typer.Option(help="the longest a test may take")] = 60,
) -> None:
    """Run the groups in each mode; a group that has rows already is run again."""
    for name in group or GROUPS[library]:
        for how in mode or ["stock", "kept", "sparse"]:
            rows = row_file(out, library, name, how)
            rows.unlink(missing_ok=True)
            files = [file for file in GROUPS[library][name] if (checkout / file).exists()]
            plugin = ["-p", "scripts.suites.plugin", f"--accel={how}", f"--accel-seconds={seconds}"]
            command = [sys.executable, "-m", "pytest", *QUIET, *plugin, f"--accel-report={rows}", *files]
            with rows.with_suffix(".log").open("w") as log:
                subprocess.run(command, cwd=checkout, env=environment(), stdout=log, stderr=log)


def environment() -> dict[str, str]:
    """Our own faults fail the test they happen in; nothing is downloaded and no kernel is checked."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "ACCEL_STRICT": "1", "ACCEL_CHECK": "0"}
    return os.environ | ours


if __name__ == "__main__":
    typer.run(main)
