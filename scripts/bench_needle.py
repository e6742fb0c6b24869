"""Measure what methods find: retrieval accuracy, perplexity and last-layer error against dense, by density.

    python scripts/bench_needle.py --lengths 2048 4096 --densities 0.1 0.3 --samples 16 --out needle.json

Every method gets the same sequences of the demo's needle task: a few (key, value) pairs hidden in filler at
every depth, all asked for at the end. Writes JSON and prints a markdown table. Density is the one that was
executed, executed blocks / blocks of a dense causal kernel, and not the one that was asked for.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel import Recipe, accelerated, load_recipe, summary
from accel.demo.needle import NeedleTask
from accel.generate import DENSE
from accel.load_language_model import load_language_model

DEPTHS = 5
PAIRS = 4


def permuted(score: dict[str, Any]) -> Callable[[float, int], dict[str, Any]]:
    def policy(density: float, length: int) -> dict[str, Any]:
        select = {"kind": "top_k", "density": density}
        return {
            "method": "permuted",
            "segment": 128,
            "block_size": [64, 64],
            "score": score,
            "select": select,
        }

    return policy


def composed(score: dict[str, Any]) -> Callable[[float, int], dict[str, Any]]:
    def policy(density: float, length: int) -> dict[str, Any]:
        select = {"kind": "top_k", "density": density}
        always = {"sink": 64, "recent": 128}
        return {
            "method": "compose",
            "block_size": [64, 64],
            "score": score,
            "select": select,
            "always": always,
        }

    return policy


def hip(search: dict[str, Any]) -> Callable[[float, int], dict[str, Any]]:
    def policy(density: float, length: int) -> dict[str, Any]:
        sizes = {"block_size": [64, 64], "sink": 64, "window": 128}
        # `density` counts blocks of all keys; a causal row has half of them on average.
        return {"method": "hip", "density": density / 2, "search": search, **sizes}

    return policy


def a_shape(density: float, length: int) -> dict[str, Any]:
    always = {"sink": 64, "recent": round(density * length / 2)}
    return {"method": "compose", "block_size": [64, 64], "always": always}


METHODS: dict[str, Callable[[float, int], dict[str, Any]]] = {
    "permuted, pooled": permuted({"kind": "pooled"}),
    "permuted, antidiagonal": permuted({"kind": "antidiagonal", "stride": 8}),
    "antidiagonal (XAttention)": composed({"kind": "antidiagonal", "stride": 8}),
    "strided": composed({"kind": "strided", "query": 8, "key": 4}),
    "hip, tree": hip({"kind": "tree"}),
    "hip, stages": hip({"kind": "stages"}),
    "a-shape": a_shape,
}


@dataclass(frozen=True)
class Row:
    """One method at one length and density. `dense` is a method too, of density 1.

    Args:
        accuracy: share of questions whose value comes out first.
        accuracy_by_depth: the same for needles in each fifth of the text, the first fifth first; none where
            no needle fell.
        perplexity: of the values asked for.
        error: norm(h - dense h) / norm(dense h) of the last layer's output, over all tokens.
    """

    method: str
    length: int
    density: float
    questions: int
    accuracy: float
    accuracy_by_depth: tuple[float | None, ...]
    perplexity: float
    error: float


@dataclass(frozen=True)
class Sample:
    """One sequence [1, length], the positions of its answers [queries], and their needles' depths."""

    tokens: Tensor
    answers: Tensor
    depths: Tensor


def samples(length: int, count: int, seed: int, device: torch.device) -> list[Sample]:
    task, generator = NeedleTask(length, PAIRS, PAIRS), torch.Generator().manual_seed(seed)
    drawn = [task.sample(generator) for _ in range(count)]
    return [Sample(tokens[None].to(device), task.answers, depths) for tokens, depths in drawn]


@torch.no_grad()
def hidden_states(model: Any, sample: Sample) -> Tensor:
    """The last layer's output, [length, width]."""
    return model.model(sample.tokens, use_cache=False).last_hidden_state[0]


@torch.no_grad()
def measure(model: Any, method: str, recipe: Recipe, data: list[Sample], dense: list[Tensor]) -> Row:
    """One row; `dense` are the samples' hidden states without acceleration."""
    right, depths, losses, errors = [], [], [], []
    with accelerated(model, recipe, min_tokens=0):
        for sample, reference in zip(data, dense, strict=True):
            hidden = hidden_states(model, sample)
            errors.append(float((hidden - reference).norm() / reference.norm()))
            logits = model.lm_head(hidden[sample.answers - 1]).float()
            values = sample.tokens[0, sample.answers]
            right.append((logits.argmax(dim=-1) == values).cpu())
            losses.append(torch.nn.functional.cross_entropy(logits, values, reduction="none").cpu())
            depths.append(sample.depths)
        density = summary(model).density
    assert density is not None
    hit, depth, length = torch.cat(right).double(), torch.cat(depths), data[0].tokens.shape[1]
    return Row(
        method, length, density, len(hit), float(hit.mean()), by_depth(hit, depth),
        math.exp(float(torch.cat(losses).mean())), sum(errors) / len(errors),
    )  # fmt: skip


def by_depth(hit: Tensor, depth: Tensor) -> tuple[float | None, ...]:
    fifth = (depth * DEPTHS).long().clamp(max=DEPTHS - 1)
    return tuple(float(hit[fifth == n].mean()) if (fifth == n).any() else None for n in range(DEPTHS))


def sweep(model: Any, options: argparse.Namespace) -> Iterator[Row]:
    """Dense first, then every method at every density and the shipped recipes, length by length."""
    for length in options.lengths:
        data = samples(length, options.samples, options.seed, model.device)
        dense = [hidden_states(model, sample) for sample in data]
        yield measure(model, "dense", DENSE, data, dense)
        for name in options.recipes:
            yield measure(model, name, load_recipe(name), data, dense)
        for method in options.methods:
            for density in options.densities:
                policy = METHODS[method](density, length)
                recipe = Recipe.model_validate(
                    {
                        "schedule": {"dense_queries": options.dense_queries},
                        "rules": [{"match": "*", "policy": policy}],
                    }
                )
                yield measure(model, method, recipe, data, dense)


def table(rows: list[Row]) -> str:
    """The rows as markdown."""
    head = ["method", "length", "density", "accuracy", "by depth, first fifth to last", "perplexity", "error"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in rows:
        depths = " ".join("-" if share is None else f"{share:.2f}" for share in row.accuracy_by_depth)
        cells = [row.method, str(row.length), f"{row.density:.3f}", f"{row.accuracy:.3f}", depths]
        lines.append(" | ".join([*cells, f"{row.perplexity:.3f}", f"{row.error:.4f}"]))
    return "\n".join(f"| {line} |" for line in lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo-llm", help="the embedded demo, or a folder of one like it")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192], help="tokens")
    parser.add_argument("--densities", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--recipes", nargs="+", default=[], help="shipped recipes to measure as they are")
    parser.add_argument("--samples", type=int, default=16, help=f"sequences a row, of {PAIRS} questions each")
    parser.add_argument("--dense-queries", type=int, default=0, help="last queries that see every key")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rows = []
    for row in sweep(load_language_model(options.model).model, options):
        rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
        if options.out:
            options.out.write_text(json.dumps([asdict(each) for each in rows], indent=1), encoding="utf-8")
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
