"""What a language model gains, dense and accelerated in one process: prompts, decoding and the demo.

    python -m scripts.speed.language prefill rows.jsonl

Random weights of Llama-3.1-8B's shape. A quarter of its layers is run, since each costs the
same; at 131,072 tokens the whole model is measured too.
"""

from __future__ import annotations

import gc
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from accel.accelerate import plan_for
from accel.apply.summary import summarize
from accel.cli.commands.bench import ROOM, bench_recipe
from accel.demo.needle import needle_prompt
from accel.kernels.attention.tiers import choose_tier
from accel.load.language_model import load_language_model
from accel.load.pipeline import best_device
from accel.recipe.choose import LANGUAGE_MODELS
from accel.recipe.recipe import DENSE
from accel.run.bench_language import BenchRow, bench_decode, bench_prefill, random_model
from accel.run.complete import agreement, complete
from scripts.row_file import RowFile
from scripts.speed.dense_baseline import best_dense, dense_backend

DENSITY = 0.2
PREFILL = [(131072, 8), (65536, 8), (16384, 8), (262144, 8), (131072, 32)]  # tokens, layers
DECODE = [("llm-quest", 131072), ("llm-hip", 131072), ("llm-quest", 32768), ("llm-hip", 32768)]
LONG = 100_000  # tokens from which a prompt is timed once

Row = dict[str, Any]


def main(
    kind: Annotated[str, typer.Argument(help="prefill, decode or demo.")],
    out: Annotated[Path, typer.Argument(help="JSON lines to write, or to continue.")],
    shape: Annotated[str, typer.Option(help="A shape that accel bench knows.")] = "llama-3.1-8b",
    tokens: Annotated[list[int] | None, typer.Option(help="Only these lengths, all layers.")] = None,
) -> None:
    """Measure one kind; prints a row as soon as it is measured."""
    rows = RowFile(out)
    with best_dense(best_device()):
        if kind == "prefill":
            for length, layers in [(n, 10**6) for n in tokens] if tokens else PREFILL:
                rows.add(f"{length} tokens, {layers} layers", partial(prefill, shape, length, layers), 280)
        elif kind == "decode":
            cases = [(name, n) for n in tokens for name in ("llm-quest", "llm-hip")] if tokens else DECODE
            for name, length in cases:
                rows.add(f"{name}, {length} tokens", partial(decode, shape, length, name), 120)
        elif kind == "demo":
            rows.add("demo-llm", demo, 120)
        else:
            raise typer.BadParameter(f"kind must be prefill, decode or demo, got {kind!r}")


def prefill(shape: str, tokens: int, layers: int) -> Row:
    """A prompt of random tokens at a fixed density: its cost is real, its output meaningless."""
    recipe = bench_recipe("prefill", density=DENSITY)
    model = model_of(shape, max(tokens, 262144 if layers == 8 else tokens) + ROOM, layers)
    row = bench_prefill(model, tokens, recipe, repeats=1 if tokens > LONG else 3)
    return as_row(shape, model, row, LANGUAGE_MODELS)


def decode(shape: str, tokens: int, name: str) -> Row:
    """One token after a cache of a length."""
    recipe = bench_recipe("decode", name)
    model = model_of(shape, 131072 + ROOM, 10**6)
    return as_row(shape, model, bench_decode(model, tokens, recipe), name)


@lru_cache(maxsize=1)
def model_of(shape: str, longest: int, layers: int) -> Any:
    """A random model; the last one is kept."""
    gc.collect()
    device = best_device()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return random_model(shape, longest, device, dtype, layers)


def as_row(shape: str, model: Any, row: BenchRow, recipe: str) -> Row:
    if not row.ran_sparse:
        raise RuntimeError(str(row))
    config, device = model.config, model.device
    return {
        "shape": shape,
        "layers": config.num_hidden_layers,
        "recipe": recipe,
        "dtype": str(model.dtype).removeprefix("torch."),
        "tier": choose_tier(device, model.dtype, config.head_dim).name,
        "dense_attention": dense_backend(device),
        **asdict(row),
        "times_faster": row.times_faster,
        "attention_times_faster": row.attention_times_faster,
    }


def demo() -> Row:
    """The embedded model answers its question dense and accelerated, both warmed up."""
    loaded = load_language_model("demo-llm")
    text, expected = needle_prompt(loaded.tokenizer, 8192)
    recipe = plan_for(loaded.model, None).recipe
    for warm in (DENSE, recipe):
        complete(*loaded, text, warm, max_new_tokens=2)
    dense, fast = (complete(*loaded, text, chosen) for chosen in (DENSE, recipe))
    account = summarize([fast.patch])
    return {
        "prompt_tokens": fast.prompt_tokens,
        "dense_seconds": dense.seconds_to_first_token,
        "accelerated_seconds": fast.seconds_to_first_token,
        "dense_right": dense.text.strip().startswith(str(expected)),
        "accelerated_right": fast.text.strip().startswith(str(expected)),
        "agreement": agreement(dense, fast),
        "density": account.density,
        "dense_reasons": account.dense_reasons,
    }


if __name__ == "__main__":
    typer.run(main)
