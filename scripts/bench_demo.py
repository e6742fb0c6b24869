"""What each method costs in quality on the embedded demo, end to end: one prompt, seed, density, schedule."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import torch
import typer

from accel.demo.paths import DEMO_PROMPTS, DEMO_SETTINGS
from accel.generate import GenerateSettings, generate
from accel.load_pipeline import load_pipeline
from accel.plan_reuse import Reuse
from accel.policies.compose import Composed
from accel.policies.draft import Draft
from accel.policies.hip import Hip
from accel.policies.permuted import Permuted
from accel.policies.policy import Policy
from accel.policies.radial import Radial
from accel.policies.scores import Pooled, Strided
from accel.policies.selectors import TopK
from accel.quality import measure_quality, relative_error
from accel.recipe import Recipe, Rule
from accel.schedule import Schedule
from accel.summary import summarize
from accel.versions import device_name, versions
from bench_policies import Chance

BLOCK = (64, 64)
DENSE_STEPS = 0.25


def composed(score: object, budget: str, share: float = 0.0, tail: bool = False) -> Callable[[float], Policy]:
    """A composition by density, of which `share` goes to every row alike."""
    return lambda density: Composed(
        score=score, select=TopK(density, budget, share * density), tail=tail, block_size=BLOCK
    )


METHODS: dict[str, Callable[[float], Policy]] = {
    "random": Chance,
    "radial": lambda density: Radial(decay=0.5, block_size=BLOCK),
    "draft": lambda density: Draft(density=density, region=(8, 8), block_size=BLOCK),
    "permuted": lambda density: Permuted(select=TopK(density), segment=None, block_size=BLOCK),
    "hip": lambda density: Hip(density=density, block_size=BLOCK),
    "pooled, row": composed(Pooled(), "row"),
    "pooled, row, tail": composed(Pooled(), "row", tail=True),
    "strided, layer": composed(Strided(8, 4), "layer", 0.5),
    "strided 16x8, layer": composed(Strided(16, 8), "layer", 0.5),
    "strided, layer, tail": composed(Strided(8, 4), "layer", 0.5, tail=True),
    "oracle, row": composed(Strided(1, 1), "row"),
}


@dataclass(frozen=True)
class Row:
    """One method on one prompt. Seconds of attention and transformer include the dense steps."""

    method: str
    prompt: str
    sparse_density: float | None
    psnr: float
    ssim: float
    latent_relative_error: float
    attention_times_faster: float
    transformer_times_faster: float


def main(
    out: Annotated[Path, typer.Argument(help="JSON file to write; a markdown table goes beside it.")],
    density: Annotated[float, typer.Option(help="Of the sparse calls; radial has its own.")] = 0.4,
    prompts: Annotated[int, typer.Option(help="How many of the demo's prompts.", min=1, max=8)] = 1,
    method: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    reuse: Annotated[int, typer.Option(help="Steps that a layout serves.", min=1)] = 1,
) -> None:
    """Run every method on the demo and write what it cost and gained."""
    pipe = load_pipeline("demo")
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for prompt in DEMO_PROMPTS[:prompts]:
        defaults = {name: value for name, value in vars(DEMO_SETTINGS).items() if name != "fps"}
        settings = GenerateSettings(prompt=prompt, **defaults)
        dense = generate(pipe, settings)
        for name in method or METHODS:
            run = generate(pipe, settings, recipe_of(METHODS[name](density), reuse))
            quality = measure_quality(run.frames, dense.frames)
            assert run.latents is not None and dense.latents is not None
            rows.append(
                Row(
                    name,
                    prompt,
                    summarize([run.patch]).sparse_density,
                    quality.psnr,
                    quality.ssim,
                    relative_error(run.latents, dense.latents),
                    dense.seconds.attention / run.seconds.attention,
                    dense.seconds.transformer / run.seconds.transformer,
                )
            )
            print(rows[-1], flush=True)
    machine = {"device": device_name("cpu"), "threads": torch.get_num_threads(), **versions()}
    settings_text = {
        "density": density,
        "dense_steps": DENSE_STEPS,
        "block_size": BLOCK,
        "seed": 0,
        "reuse": reuse,
    }
    found = {"machine": machine, "settings": settings_text, "rows": [asdict(row) for row in rows]}
    out.write_text(json.dumps(found, indent=1))
    out.with_suffix(".md").write_text(table(rows))


def recipe_of(policy: Policy, reuse: int) -> Recipe:
    """A recipe around any policy, those that no YAML can name included."""
    rule = Rule.model_construct(match="*", policy=policy)
    schedule = Schedule(dense_steps=DENSE_STEPS)
    return Recipe.model_construct(rules=(rule,), schedule=schedule, reuse=Reuse(steps=reuse))


def table(rows: list[Row]) -> str:
    """Means over prompts, best latent error first."""
    lines = [
        "| method | density | SSIM | PSNR, dB | latent error | attention | transformer |",
        "|---|" + "---|" * 6,
    ]
    names = dict.fromkeys(row.method for row in rows)
    groups = [[row for row in rows if row.method == name] for name in names]
    for group in sorted(groups, key=lambda group: mean(row.latent_relative_error for row in group)):
        density = mean(row.sparse_density or 1.0 for row in group)
        lines.append(
            f"| {group[0].method} | {density:.3f} | {mean(r.ssim for r in group):.4f} "
            f"| {mean(r.psnr for r in group):.1f} "
            f"| {mean(r.latent_relative_error for r in group):.3f} "
            f"| {mean(r.attention_times_faster for r in group):.2f}x "
            f"| {mean(r.transformer_times_faster for r in group):.2f}x |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
