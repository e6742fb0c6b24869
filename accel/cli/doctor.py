"""accel doctor: what this machine has, which kernel tier it gets, and why; and the tests of tiers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import torch
import typer

from accel.cli.options import Json
from accel.cli.terminal import say
from accel.kernels.attention.tiers import cannot_run, choose_tier, on_proof
from accel.kernels.attention.verdicts import PASSED, key, verdict_file
from accel.load.pipeline import best_device
from accel.machine.tier_proof import prove
from accel.machine.versions import device_name, versions
from accel.recipe.files import shipped_recipes

HEAD_DIMS = (64, 96, 128, 256)
Proving = Annotated[
    bool, typer.Option("--prove", help="Test, and again, the tiers that run only where they have passed.")
]


def doctor(proving: Proving = False, as_json: Json = False) -> None:
    """Say what this machine has and which kernel tier it gets, and why.

    Exits with 1 if a tier is tested and does not pass.
    """
    device = torch.device(best_device())
    tell: Callable[[str], None] = (lambda text: None) if as_json else say
    tell(f"device   {device_name(device)}")
    for package, version in versions().items():
        tell(f"{package:<13} {version}")
    proofs = prove_all(tell) if proving else []
    choice = choose_tier(device, torch.float32 if device.type == "cpu" else torch.bfloat16, 128)
    tell(f"tier     {choice.name}: {choice.reason}")
    tell(f"recipes  {len(shipped_recipes())} shipped; `accel recipes list` shows them")
    if as_json:
        facts = {"device": device_name(device), "versions": versions(), "tier": asdict(choice)}
        print(json.dumps({**facts, "proofs": proofs, "recipes": list(shipped_recipes())}, default=str))
    if any(proof["verdict"] != PASSED for proof in proofs):
        raise typer.Exit(1)


def prove_all(tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Test every tier that has to be, for every type and head dim, on each kind of GPU that PyTorch sees."""
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    calls = {
        key(tier, gpu, dtype, head_dim): (tier, gpu, dtype, head_dim)
        for gpu in reversed(gpus)
        for tier in on_proof()
        for dtype in (torch.bfloat16, torch.float16)
        for head_dim in HEAD_DIMS
        if cannot_run(tier, gpu, dtype, head_dim) is None
    }
    proofs = []
    for tier, gpu, dtype, head_dim in calls.values():
        found = prove(tier, gpu, dtype, head_dim)
        proofs.append({"tier": tier, "device": gpu, "dtype": dtype, "head_dim": head_dim, "verdict": found})
        tell(f"proof    {tier}, {device_name(gpu)}, {str(dtype)[6:]}, head dim {head_dim}: {found}")
    kept = f"kept in {verdict_file()}" if proofs else "nothing here runs only where it has passed a test"
    tell(f"proof    {kept}")
    return proofs
