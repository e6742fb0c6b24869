"""accel doctor: what this machine has, which kernel tier it gets, and why; and the checks of tiers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import torch
import typer

from accel.cli.options import Json
from accel.cli.terminal import say
from accel.kernels.attention.tier import HALVES, Precision
from accel.kernels.attention.tiers import cannot_run, checked_tiers, choose_tier
from accel.kernels.check_results import PASSED, check_result, key, results_file
from accel.kernels.timings import BLOCKS, USUAL_BLOCK, Call, known
from accel.load.pipeline import best_device
from accel.machine.tier_check import check_tier
from accel.machine.tier_timing import tier_times, time_tiers
from accel.machine.versions import device_name, versions
from accel.recipe.files import shipped_recipes

HEAD_DIMS = (64, 96, 128, 256)
INT8_ERROR = 0.011  # on random normal inputs (docs/kernels.md)
Checking = Annotated[
    bool,
    typer.Option("--check", help="Check again the tiers that run only after passing a check."),
]


Rounding = Annotated[
    Precision | None,
    typer.Option("--precision", help="With --check: also the tiers that round queries and keys to this."),
]


def doctor(checking: Checking = False, precision: Rounding = None, as_json: Json = False) -> None:
    """Say what this machine has and which kernel tier it gets, and why.

    Exits with 1 if a tier is checked and fails.
    """
    device = torch.device(best_device())
    tell: Callable[[str], None] = (lambda text: None) if as_json else say
    tell(f"device   {device_name(device)}")
    for package, version in versions().items():
        tell(f"{package:<13} {version}")
    checks = check_all(tell, precision) if checking else []
    times = time_all(tell) if checking else []
    choice = choose_tier(device, torch.float32 if device.type == "cpu" else torch.bfloat16, 128)
    tell(f"tier     {choice.name}: {choice.reason}")
    if (offer := int8_offer(device, choice.name)) is not None:
        tell(f"int8     {offer}")
    tell(f"recipes  {len(shipped_recipes())} shipped; `accel recipes list` shows them")
    if as_json:
        facts = {"device": device_name(device), "versions": versions(), "tier": asdict(choice)}
        print(
            json.dumps(
                {**facts, "checks": checks, "times": times, "recipes": list(shipped_recipes())}, default=str
            )
        )
    if any(one["result"] != PASSED for one in checks):
        raise typer.Exit(1)


def int8_offer(device: torch.device, otherwise: str) -> str | None:
    """What `precision: int8` would bring for heads of 128 in place of a tier; None if it cannot run here."""
    call = Call(device, torch.bfloat16, 128, USUAL_BLOCK)
    if cannot_run("int8", *call[:3]) is not None:
        return None
    asked = f"`precision: int8` in a recipe's rule, at a relative error of {INT8_ERROR}"
    found = check_result("int8", *call[:3])
    if found is None:
        return f"{asked}, may be faster here: `accel doctor --check --precision int8` finds out"
    if found != PASSED:
        return f"the int8 tier {found}"
    eight, usual = (known().get(call.key(name), math.inf) for name in ("int8", otherwise))
    if math.inf in (eight, usual):
        return f"{asked}, has passed its check here"
    return f"{asked}, takes {eight / usual:.2f} of the time of {otherwise} here"


def check_all(tell: Callable[[str], None], precision: Precision | None = None) -> list[dict[str, Any]]:
    """Check every tier that needs it, for every type and head dim, on each kind of GPU that PyTorch sees."""
    checks = []
    rounding = checked_tiers(precision) if precision else ()
    for tier, gpu, dtype, head_dim in _calls((*checked_tiers(), *rounding)):
        found = check_tier(tier, gpu, dtype, head_dim)
        checks.append({"tier": tier, "device": gpu, "dtype": dtype, "head_dim": head_dim, "result": found})
        tell(f"check    {tier}, {device_name(gpu)}, {str(dtype)[6:]}, head dim {head_dim}: {found}")
    kept = f"kept in {results_file()}" if checks else "no kernel of this machine needs a check"
    tell(f"check    {kept}")
    return checks


def time_all(tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Time the tiers that have passed, and the configurations of their kernels, for the same calls."""
    times = []
    for _, gpu, dtype, head_dim in _calls(("triton",)):
        problem = time_tiers(gpu, dtype, head_dim)
        for block in BLOCKS:
            call = Call(gpu, dtype, head_dim, block)
            found = tier_times(call)
            taken = ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in found.items())
            times.append({"device": gpu, "dtype": dtype, "head_dim": head_dim, "block": block, **found})
            what = f"{device_name(gpu)}, {str(dtype)[6:]}, head dim {head_dim}, {block[0]} x {block[1]}"
            tell(f"time     {what}: {taken or problem or 'nothing ran'}")
    return times


def _calls(tiers: Sequence[str]) -> list[tuple[str, torch.device, torch.dtype, int]]:
    """Every call of these tiers that can run here, one for each kind of GPU."""
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    calls = {
        key(tier, gpu, dtype, head_dim): (tier, gpu, dtype, head_dim)
        for gpu in reversed(gpus)
        for tier in tiers
        for dtype in HALVES
        for head_dim in HEAD_DIMS
        if cannot_run(tier, gpu, dtype, head_dim) is None
    }
    return list(calls.values())
