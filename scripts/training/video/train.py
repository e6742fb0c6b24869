"""Train the embedded video demo from nothing: a VAE, then text encoder and transformer, as a WanPipeline.

    python -m scripts.training.video.train --minutes 25 --out out/shapes-wan             # one GPU
    python -m scripts.training.video.train --size toy --steps 40 --out out/toy-wan       # a CPU, seconds

`--out` then holds `pipeline/` (for WanPipeline.from_pretrained), `vae/`, `checkpoints/` and `training.json`,
which says how it was made. An interrupted run continues with `--resume`. The size `small` needs a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from scripts.training.budget import Budget
from scripts.training.checkpoint import unused_checkpoint
from scripts.training.loop import Outcome, train
from scripts.training.video.finished import load_vae, save_pipeline, save_vae
from scripts.training.video.sizes import SIZES
from scripts.training.video.transformer_stage import TransformerStage
from scripts.training.video.vae_stage import VaeStage

VAE_SHARE = 0.1
STEPS_BETWEEN_LINES = 50


class Part(StrEnum):
    """What to train."""

    vae = "vae"
    transformer = "transformer"
    all = "all"


SizeName = Enum("SizeName", {name: name for name in SIZES}, type=str)


def main(
    out: Annotated[Path, typer.Option(help="folder for the pipeline, the checkpoints and training.json")],
    minutes: Annotated[float, typer.Option(help="training time of all parts together")] = 25.0,
    steps: Annotated[int | None, typer.Option(help="steps of each part, instead of minutes")] = None,
    stage: Annotated[
        Part, typer.Option(help="what to train; the transformer needs a finished VAE")
    ] = Part.all,
    size: Annotated[
        SizeName, typer.Option(help="small: the shipped configuration; toy: for tests")
    ] = "small",
    seed: Annotated[int, typer.Option(help="of the weights, the clips and the noise")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; empty: a GPU if there is one")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="continue from the checkpoints in --out")] = False,
) -> None:
    """Train the demo pipeline and save it."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = {"out": out, "size_name": SizeName(size).value, "seed": seed, "device": place, "resume": resume}
    shares = {Part.vae: (1.0, 0.0), Part.transformer: (0.0, 1.0), Part.all: (VAE_SHARE, 1 - VAE_SHARE)}[stage]
    try:
        for share, train_part in zip(shares, (train_vae, train_transformer), strict=True):
            if share:
                budget = Budget(steps=steps) if steps is not None else Budget(minutes=minutes * share)
                train_part(budget=budget, **run)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def train_vae(
    budget: Budget, out: Path, size_name: str, seed: int, device: torch.device, resume: bool
) -> None:
    """Train the VAE and write it, measured, to `out/vae`; one that a transformer was trained on is kept.

    Raises:
        FileExistsError: if there is a checkpoint already and `resume` is false.
    """
    checkpoint = unused_checkpoint(out / "checkpoints" / "vae.safetensors", resume)
    if (out / "checkpoints/transformer.safetensors").exists():
        typer.echo(f"vae: kept, {out / 'checkpoints/transformer.safetensors'} was trained on it")
        return
    stage = VaeStage(SIZES[size_name], size_name, seed, device)
    outcome = train(stage, budget, checkpoint, on_step=_say("vae"))
    _note(out, "vae", outcome, budget, device, stage.facts | save_vae(out / "vae", stage))


def train_transformer(
    budget: Budget, out: Path, size_name: str, seed: int, device: torch.device, resume: bool
) -> None:
    """Train text encoder and transformer on the VAE in `out/vae`, and write the pipeline to `out/pipeline`.

    Raises:
        FileExistsError: if there is a checkpoint already and `resume` is false.
        FileNotFoundError: if the VAE is not finished.
    """
    checkpoint = unused_checkpoint(out / "checkpoints" / "transformer.safetensors", resume)
    vae, digest = load_vae(out / "vae")
    stage = TransformerStage(SIZES[size_name], size_name, seed, device, vae, digest)
    outcome = train(stage, budget, checkpoint, on_step=_say("transformer"))
    save_pipeline(out / "pipeline", stage)
    _note(out, "transformer", outcome, budget, device, stage.facts)


def _say(part: str) -> Callable[[int, Tensor], None]:
    def say(step: int, loss: Tensor) -> None:
        if step % STEPS_BETWEEN_LINES == 0:
            typer.echo(f"{part}: step {step}, loss {loss.item():.4f}")

    return say


def _note(
    out: Path, part: str, outcome: Outcome, budget: Budget, device: torch.device, facts: dict[str, object]
) -> None:
    path = out / "training.json"
    notes = json.loads(path.read_text()) if path.exists() else {}
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    notes[part] = {"device": machine, "budget": asdict(budget), **asdict(outcome), **facts}
    path.write_text(json.dumps(notes, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
