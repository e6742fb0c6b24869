"""The stages of the GPU check: what each runs, how long it should take on an H200, and how long it may.

Estimates follow from cuDNN's 169 ms for 1 x 40 x 75,600 x 128 (693 TFLOPS), from two seconds to compile a
kernel, and from ten to start a process; these times have not been measured.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from accel.kernels.attention.tiers import TIERS, cannot_run
from scripts.speed.targets import MAIN

ROOT = Path(__file__).parents[2]
OUT = "{out}"
SMALL = ("--shape", "1,12,8192,128")
HOPPER = "tests/kernels/hopper/test_hopper_attention.py"
# Settings the files of cases read; each of many processes has one core.
ON_GPU = {"TRITON_INTERPRET": "0", "DECODE_TIER": "triton", "OMP_NUM_THREADS": "1"}
# Tests that start whole files of cases, or checks of tiers, which are separate stages.
ELSEWHERE = ("cases_on_the_gpu", "pass_on_a_gpu", "check_on_a_gpu")
HEAD_DIMS = (128, 64, 96, 256)
PREFLIGHT = "preflight"


@dataclass(frozen=True)
class Stage:
    """One process.

    Args:
        command: its arguments; OUT is replaced by the file that it writes its rows to.
        seconds: how long it should take on an H200.
        limit: seconds after which it is ended. Its rows are kept, and `--resume` continues after them.
        alone: it measures time, so nothing else may run.
        checks: "tier:head_dim" whose bfloat16 tests these are; the page shows their result next to times.
        first_calls_of: the tier whose first small calls these are; it is timed only if they are right.
        times_tiers: `--tier` is added for every tier that got its first calls right.
        needs: what must be installed, modules or programs.
        small: further arguments for a quick try.
        each_machine: what it finds is kept on the machine, so a new machine needs it again; and what it
            starts outlives it, so it is not started without the time it may need.
    """

    name: str
    command: tuple[str, ...]
    seconds: int
    limit: int
    alone: bool = False
    checks: str | None = None
    first_calls_of: str | None = None
    times_tiers: bool = False
    needs: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    each_machine: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= self.limit:
            raise ValueError(f"{self.name}: expected 0 < seconds <= limit, got {self.seconds}, {self.limit}")


def stages() -> list[Stage]:
    """All of them, the most valuable first: first calls, the main shape and planning before any tests.

    A test that fails stops no timing: every timed result is compared with the reference before it is timed.
    """
    tests, timings = tests_of_tiers(torch.bfloat16), measurements()
    main = [one for one in tests if one.name.endswith(" D128")]
    return [
        Stage(PREFLIGHT, script("gpu.preflight"), 5, 60, alone=True),
        *first_calls(),
        *timings[:2],
        *main,
        timings[2],
        *(one for one in tests if one not in main),
        *other_tests(),
        *timings[3:],
        *sanitizers(),
        *tests_of_tiers(torch.float16),
    ]


def first_calls() -> list[Stage]:
    """A few small calls of every tier, compiled and compared with the reference."""
    return [
        Stage(
            f"first calls {tier}",
            script("gpu.small_calls", tier),
            20,
            60,
            first_calls_of=tier,
            environment=ON_GPU,
        )
        for tier in gpu_tiers()
    ]


def gpu_tiers() -> list[str]:
    """The tiers that are kernels: those that cannot run on a CPU."""
    return [name for name in TIERS if cannot_run(name, "cpu", torch.bfloat16, 128) is not None]


def tests_of_tiers(dtype: torch.dtype) -> list[Stage]:
    """What must hold for every tier, each head dim in its own process, so that a hang, a crash or minutes of
    compilation affect only that one. A tier is not timed unless its bfloat16 tests have passed."""
    kind = str(dtype).removeprefix("torch.")
    files = sorted(gpu_files("kernels"))
    return [
        tests_of(
            f"{tier} {kind} D{dim}",
            files,
            tier_id(tier, kind, dim),
            checks=f"{tier}:{dim}" if dtype == torch.bfloat16 else None,
        )
        for tier in gpu_tiers()
        for dim in HEAD_DIMS
        if not torch.cuda.is_available() or cannot_run(tier, "cuda", dtype, dim) is None
    ]


def tier_id(tier: str, kind: str, dim: int | str = "") -> str:
    """What the ids of a tier's tests contain; without a head dim, those of all head dims."""
    return f"{tier}-{kind}-D{dim}"


def other_tests() -> list[Stage]:
    """All other tests marked `gpu`, and the checks of tiers."""
    cases = sorted((ROOT / "tests" / "kernels").rglob("*_cases.py"))
    tiers = [tier_id(tier, kind) for tier in gpu_tiers() for kind in ("bfloat16", "float16")]
    return [
        tests_of("of the hopper tier's own, D128", [HOPPER], "D128 or tiles"),
        tests_of("of the hopper tier's own, others", [HOPPER], "not (D128 or tiles)"),
        *(tests_of(path.stem.replace("_", " "), [str(path.relative_to(ROOT))]) for path in cases),
        tests_of(
            "others",
            sorted(gpu_files() - {HOPPER}),
            f"not ({' or '.join([*ELSEWHERE, *tiers])})",
        ),
        Stage("check D128", script("gpu.check_tiers", "128"), 150, 330, each_machine=True),
    ]


def tests_of(name: str, files: list[str], match: str = "", checks: str | None = None) -> Stage:
    """The tests marked `gpu` in some files; all tests of a file of cases, run only where they apply."""
    marked = [] if files[0].endswith("_cases.py") else ["-m", "gpu"]
    chosen = ["-k", match] if match else []
    plugins = ["-p", "scripts.gpu.test_rows", "-p", "no:cacheprovider"]
    pytest = ["-m", "pytest", *plugins, "--tb=short", "--continue-on-collection-errors"]
    return Stage(
        f"tests {name}",
        (sys.executable, *pytest, *marked, *chosen, *files),
        seconds=120,
        limit=300,
        checks=checks,
        environment={"TEST_ROWS": OUT, "TEST_SECONDS": "70", **ON_GPU},
    )


def gpu_files(folder: str = "") -> set[str]:
    """The test files, of a folder of tests, that have tests marked `gpu`."""
    found = (ROOT / "tests" / folder).rglob("test_*.py")
    marked = (path for path in found if "mark.gpu" in path.read_text())
    return {str(path.relative_to(ROOT)) for path in marked}


def measurements() -> list[Stage]:
    """Everything that is timed; each has the GPU to itself."""
    peers = ("--peers", "--density", "0.25", "--block", "128x128", "--shape", "1,12,32760,128")
    main = ("--shape", MAIN, "--block", "128x64", "--density", "0.25", "--density", "0.1")
    return [
        timed("main shape", (*script("speed.kernels"), *main), 60, 150, times_tiers=True, small=SMALL),
        timed("planning", script("speed.planning"), 70, 180, small=SMALL),
        timed("kernels", script("speed.kernels"), 300, 500, times_tiers=True, small=SMALL),
        timed("options", script("speed.options"), 50, 150, times_tiers=True, small=SMALL),
        timed("prefill", script("speed.language", "prefill"), 200, 420, needs=("transformers",)),
        timed("decode", script("speed.language", "decode"), 90, 240, needs=("transformers",)),
        timed("wan", script("speed.diffusion", "wan"), 60, 200, needs=("diffusers",)),
        timed("demo", script("speed.diffusion", "demo"), 60, 200, needs=("diffusers", "ftfy")),
        timed("demo-llm", script("speed.language", "demo"), 40, 150, needs=("transformers",)),
        timed(
            "peers",
            (*script("speed.kernels"), *peers, "--shape", MAIN),
            100,
            300,
            times_tiers=True,
        ),
    ]


def timed(name: str, command: tuple[str, ...], seconds: int, limit: int, **rest) -> Stage:  # type: ignore[no-untyped-def]
    # Tiers are checked in a separate stage, not in the middle of what is timed.
    return Stage(name, command, seconds, limit, alone=True, environment={"ACCEL_CHECK": "0"}, **rest)


def sanitizers() -> list[Stage]:
    """compute-sanitizer on small calls of every tier and of planning."""
    sanitizer = ("compute-sanitizer", "--error-exitcode", "86", "--target-processes", "application-only")
    return [
        Stage(
            f"sanitizer {tool} {what}",
            (*sanitizer, "--tool", tool, *script("gpu.small_calls"), what),
            seconds=60,
            limit=240,
            needs=("compute-sanitizer",),
            # Each allocation is separate, so that a read past its end is noticed.
            environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        )
        for tool in ("memcheck", "racecheck")
        for what in (*reversed(gpu_tiers()), "planning")
    ]


def script(name: str, *arguments: str) -> tuple[str, ...]:
    """One of these scripts, which writes its rows to OUT, after its `arguments`."""
    return (sys.executable, "-m", f"scripts.{name}", *arguments, OUT)
