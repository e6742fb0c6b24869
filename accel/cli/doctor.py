"""accel doctor: what this machine has, which kernel tier it gets, and why."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from rich.console import Console

from accel.cli.options import Json
from accel.kernels.tiers import choose_tier
from accel.load_pipeline import best_device
from accel.recipe_files import shipped_recipes
from accel.versions import device_name, versions


def doctor(as_json: Json = False) -> None:
    """Say what this machine has and which kernel tier it gets, and why."""
    device = torch.device(best_device())
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    choice = choose_tier(device, dtype, 128)
    if as_json:
        facts = {"device": device_name(device), "versions": versions(), "tier": asdict(choice)}
        print(json.dumps({**facts, "recipes": list(shipped_recipes())}, default=str))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"device   {device_name(device)}")
    for package, version in versions().items():
        console.print(f"{package:<13} {version}")
    console.print(f"tier     {choice.name}: {choice.reason}")
    console.print(f"recipes  {len(shipped_recipes())} shipped; `accel recipes list` shows them")
