"""Before spending minutes on a GPU: import all that the check needs, and name what is missing.

python -m scripts.gpu.preflight out.jsonl
"""

from __future__ import annotations

import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import typer

from scripts.row_file import RowFile

# What each part of the check needs; accel itself needs pydantic, yaml, typer, rich and jinja2.
NEEDED = {
    "accel": ("pydantic", "yaml", "typer", "rich", "jinja2", "accel"),
    "kernels": ("triton", "triton.experimental.gluon", "accel.kernels.hopper.attention"),
    "tests": ("pytest", "packaging"),
    "language models": ("transformers",),
    "video models": ("diffusers", "ftfy", "imageio_ffmpeg"),
    "cudnn": ("cudnn",),
}
OPTIONAL = ("cudnn",)


def main(out: Annotated[Path, typer.Argument(help="JSON lines to write, or to continue.")]) -> None:
    """One row a part. Exits with 1 if anything required is missing, or the GPU cannot add."""
    rows = RowFile(out)
    lacking = {}
    for part, modules in NEEDED.items():
        started = time.perf_counter()
        missing = [reason for name in modules if (reason := problem(name))]
        seconds = round(time.perf_counter() - started, 2)
        outcome = "failed" if missing and part not in OPTIONAL else "passed"
        rows.add(part, partial(dict, missing=missing, import_s=seconds, outcome=outcome), 60)
        if outcome == "failed":
            lacking[part] = missing
    for part, missing in lacking.items():
        print(f"{part}: {'; '.join(missing)}", flush=True)
    if lacking or not adds_up():
        raise typer.Exit(1)


def problem(module: str) -> str | None:
    """Why a module cannot be imported; None if it can."""
    try:
        import_module(module)
    except Exception as error:
        return f"{module}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None


def adds_up() -> bool:
    """Whether the GPU, if there is one, can add two numbers."""
    return not torch.cuda.is_available() or (torch.ones(2, device="cuda").sum() == 2).item()


if __name__ == "__main__":
    typer.run(main)
