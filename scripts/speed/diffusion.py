"""What a video model gains: one forward of a transformer in Wan2.1-14B's shape, and the demo end to end.

    python -m scripts.speed.diffusion wan rows.jsonl

The first has random weights, six of forty layers are run, and blocks are chosen in every call.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from accel.accelerate import accelerated, plan_for
from accel.apply.summary import summarize
from accel.comparison.quality import relative_error
from accel.comparison.runs import compare_runs
from accel.demo.paths import DEMO_PROMPTS
from accel.kernels.attention.tiers import choose_tier
from accel.load.pipeline import best_device, load_pipeline
from accel.recipe.recipe import DENSE, Recipe
from accel.run.bench_language import timed
from accel.run.settings import GenerateSettings
from scripts.quality.prompts import demo_settings
from scripts.row_file import RowFile
from scripts.speed.dense_baseline import best_dense

DENSITIES = [0.25, 0.1, 0.5, 1.0]
WAN_14B = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "text_dim": 4096}
LATENT = (18, 96, 160)  # 69 frames of 768 x 1280: 18 x 48 x 80 = 69,120 tokens

Row = dict[str, Any]


def main(
    kind: Annotated[str, typer.Argument(help="wan or demo.")],
    out: Annotated[Path, typer.Argument(help="JSON lines to write, or to continue.")],
    layers: Annotated[int, typer.Option(min=1)] = 6,
    heads: Annotated[int, typer.Option(min=1, help="Of 128 dimensions each.")] = 40,
    latent: Annotated[tuple[int, int, int], typer.Option(help="Frames, height and width.")] = LATENT,
) -> None:
    """Measure one kind; prints a row as soon as it is measured."""
    rows, device = RowFile(out), torch.device(best_device())
    with best_dense(device), torch.no_grad():
        if kind == "demo":
            rows.add("demo", demo, limit=240)
            return
        if kind != "wan":
            raise typer.BadParameter(f"kind must be wan or demo, got {kind!r}")
        model = transformer(layers, heads, device)
        inputs = {
            "hidden_states": torch.randn(1, 16, *latent, device=device, dtype=model.dtype),
            "timestep": torch.tensor([500], device=device),
            "encoder_hidden_states": torch.randn(1, 512, 4096, device=device, dtype=model.dtype),
        }
        seconds, expected = forward(model, inputs, DENSE)
        facts = {
            "layers": layers,
            "tokens": latent[0] * latent[1] * latent[2] // 4,
            "dtype": str(model.dtype).removeprefix("torch."),
            "tier": choose_tier(device, model.dtype, 128).name,
            "dense_seconds": seconds,
        }
        for density in DENSITIES:
            rows.add(f"wan {density}", partial(at_density, density, model, inputs, expected, facts))


def transformer(layers: int, heads: int, device: torch.device) -> Any:
    """A random WanTransformer3DModel with so many of the 14B model's layers and heads."""
    from diffusers import WanTransformer3DModel

    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with device:
        model = WanTransformer3DModel(**{**WAN_14B, "num_attention_heads": heads, "num_layers": layers})
    return model.to(dtype).eval().requires_grad_(False)


def at_density(density: float, model: Any, inputs: Row, expected: Tensor, facts: Row) -> Row:
    """`error` is the model output's, and must be small at density 1.0."""
    select = {"kind": "top_k", "density": density, "budget": "layer", "row_density": density / 2}
    policy = {
        "method": "compose",
        "score": {"kind": "strided", "query": 8, "key": 8},
        "select": select,
        "block_size": [128, 64],
    }
    recipe = Recipe.model_validate({"rules": [{"match": "*.attn1", "policy": policy}]})
    seconds, output = forward(model, inputs, recipe)
    return {
        **facts,
        "asked": density,
        "seconds": seconds,
        "times_faster": facts["dense_seconds"] / seconds,
        "error": relative_error(output, expected),
    }


def forward(model: Any, inputs: Row, recipe: Recipe) -> tuple[float, Tensor]:
    """Median seconds of three forwards after one that is not counted, and the output."""
    with accelerated(model, recipe):
        output = model(**inputs, return_dict=False)[0]
        times = [timed(lambda: model(**inputs), output.is_cuda) for _ in range(3)]
    return statistics.median(times), output


def demo() -> Row:
    """The embedded demo by its own recipe, twice: the first run pays for compiling kernels."""
    pipe = load_pipeline("demo")
    pipe.set_progress_bar_config(disable=True)
    asked = GenerateSettings(prompt=DEMO_PROMPTS[0], **demo_settings())
    recipe = plan_for(pipe).recipe
    compare_runs(pipe, asked, recipe, placing=False)
    compared = compare_runs(pipe, asked, recipe, floor=True)
    account = summarize([compared.accelerated.patch])
    return {
        "prompt": asked.prompt,
        "dense": vars(compared.dense.seconds),
        "accelerated": vars(compared.accelerated.seconds),
        "density": account.sparse_density,
        "dense_reasons": account.dense_reasons,
        "quality": {
            one.role: {
                "ssim": one.quality.ssim,
                "psnr": _finite(one.quality.psnr),
                "latent_error": one.latent_relative_error,
            }
            for one in compared.comparisons
        },
    }


def _finite(decibels: float) -> float | None:
    return decibels if decibels < 1e9 else None


if __name__ == "__main__":
    typer.run(main)
