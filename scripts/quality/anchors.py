"""Measure what people know on the ruler of the comparison page: the embedded demo against itself.

    python -m scripts.quality.anchors anchors.jsonl --prompt 0
    python -m scripts.quality.anchors anchors.jsonl --prompt 0 --arm "another exact backend"

SSIM and latent error, dense on both sides, 33 frames of 128 x 128 in 8 steps: another seed, another exact
backend, half the steps, weights in fp8, and an mp4 of default quality. What is in the file already is not
measured again. The means go into `accel/comparison/anchors.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from accel.comparison.anchors import as_usual_mp4
from accel.comparison.quality import measure_quality, relative_error
from accel.comparison.runs import other_exact_backend
from accel.demo.paths import DEMO_PROMPTS, DEMO_SETTINGS
from accel.load.pipeline import load_pipeline
from accel.run.generate import Generated, generate
from accel.run.settings import GenerateSettings
from scripts.row_file import RowFile

SIZE = {"height": 128, "width": 128}
ARMS = ("mp4 at default quality", "half the steps", "weights in fp8", "another seed", "another exact backend")


class Dense(NamedTuple):
    """What is kept of a dense run: its frames [F, H, W, 3] and its last latents."""

    frames: Tensor
    latents: Tensor


def main(
    output: Path,
    prompt: Annotated[int, typer.Option(help="Number of one of the demo's prompts.")] = 0,
    arm: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(ARMS)}. Repeatable.")] = None,
) -> None:
    rows = RowFile(output)
    wanted = [name for name in arm or ARMS[:-1] if f"{name} {prompt}" not in rows.announced]
    if not wanted:
        return
    pipe = load_pipeline("demo", "cpu")
    settings = GenerateSettings(prompt=DEMO_PROMPTS[prompt], seed=prompt, **{**DEMO_SETTINGS, **SIZE})
    kept = output.with_suffix(f".dense-{prompt}.pt")
    if not kept.exists():
        run = generate(pipe, settings)
        torch.save([run.frames, run.latents], kept)
    dense = Dense(*torch.load(kept))
    for name in wanted:
        rows.add(f"{name} {prompt}", lambda name=name: measured(name, pipe, settings, dense), 600)


def measured(arm: str, pipe: Any, settings: GenerateSettings, dense: Dense) -> dict[str, Any]:
    """SSIM and latent error of one arm against the dense run."""
    if arm == "mp4 at default quality":
        shown = as_usual_mp4(dense.frames, settings.fps or 16)
        return {"arm": arm, "ssim": measure_quality(shown, dense.frames).ssim, "latent_error": None}
    run = _run(arm, pipe, settings)
    assert run.latents is not None
    error = relative_error(run.latents, dense.latents)
    return {"arm": arm, "ssim": measure_quality(run.frames, dense.frames).ssim, "latent_error": error}


def _run(arm: str, pipe: Any, settings: GenerateSettings) -> Generated:
    steps = settings.num_inference_steps or 8
    if arm == "half the steps":
        return generate(pipe, settings.model_copy(update={"num_inference_steps": steps // 2}))
    if arm == "another seed":
        return generate(pipe, settings.model_copy(update={"seed": settings.seed + 1000}))
    if arm == "another exact backend":
        with other_exact_backend("cpu"):
            return generate(pipe, settings)
    # As users do it, which cannot be undone, hence a separate pipeline.
    small = load_pipeline("demo", "cpu")
    small.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return generate(small, settings)


if __name__ == "__main__":
    typer.run(main)
