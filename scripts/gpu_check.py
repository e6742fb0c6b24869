"""Everything that needs a GPU, in one run: its tests and benchmarks, as one JSON with the machine in it."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from accel.kernels.tiers import choose_tier
from accel.versions import device_name, versions

SANITIZERS = ("memcheck", "racecheck")
ROOT = Path(__file__).parents[1]


def main(
    out: Annotated[Path, typer.Argument(help="JSON file to write.")],
    quick: Annotated[bool, typer.Option(help="One small shape instead of the published ones.")] = False,
) -> None:
    """Run the tests marked `gpu`, the sanitizer, then the benchmarks. Exits with 1 without a GPU or if a test
    or the sanitizer fails."""
    if not torch.cuda.is_available():
        print("no GPU: PyTorch sees no CUDA device here, so there is nothing to check", file=sys.stderr)
        raise typer.Exit(1)
    tests = run([sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--no-header", "-rfE"])
    checks = {"tests": tests, **{f"sanitizer_{tool}": sanitize(tool) for tool in SANITIZERS}}
    passed = all(check["returncode"] in (0, None) for check in checks.values())
    found = {
        "machine": machine(),
        **checks,
        "kernels": kernels(quick) if passed else None,
        "planning": planning(quick) if passed else None,
    }
    out.write_text(json.dumps(found, indent=1))
    print(f"wrote {out}; checks {'passed' if passed else 'FAILED, so nothing was timed'}")
    raise typer.Exit(int(not passed))


def sanitize(tool: str) -> dict[str, Any]:
    """compute-sanitizer on small cases of every tier and of planning; not run where it is not installed."""
    if shutil.which("compute-sanitizer") is None:
        return {"returncode": None, "output": "compute-sanitizer is not installed"}
    test = "tests/kernels/test_every_tier.py"
    pytest = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", test, "-k", "anything or captured"]
    return run(["compute-sanitizer", "--tool", tool, "--error-exitcode", "86", *pytest])


def planning(quick: bool) -> Any:
    """What planning costs, stage by stage."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "planning.json"
        shape = ["--shape", "1,12,8192,128"] if quick else []
        done = run([sys.executable, str(ROOT / "scripts" / "bench_planning.py"), str(out), *shape])
        return json.loads(out.read_text()) if done["returncode"] == 0 else done


def kernels(quick: bool) -> Any:
    """Rows of the kernel benchmark. No speed is measured of kernels whose tests fail."""
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder) / "kernels.csv"
        shape = ["--shape", "1,12,8192,128"] if quick else []
        done = run([sys.executable, str(ROOT / "scripts" / "bench_kernels.py"), str(csv), *shape])
        return json.loads(csv.with_suffix(".json").read_text()) if done["returncode"] == 0 else done


def run(command: list[str]) -> dict[str, Any]:
    """A command's exit code and the end of what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return {
        "command": command[1:],
        "returncode": done.returncode,
        "output": (done.stdout + done.stderr)[-8000:],
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": device_name("cuda"),
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "tier": choose_tier("cuda", torch.bfloat16, 128).name,
        "cudnn": torch.backends.cudnn.version(),
        "platform": platform.platform(),
        "commit": commit or "unknown",
        **versions(),
    }


if __name__ == "__main__":
    typer.run(main)
