"""Measure what methods find: retrieval accuracy, likelihood and last-layer error against dense, by density.

    python -m scripts.language.needle docs/benchmarks/needle --lengths 1024 4096 --densities 0.1 0.3
    python -m scripts.language.needle docs/benchmarks/needle --report

Every method gets the same sequences of the demo's needle task: a (key, value) pair in every eighth of the
text, all asked for. Writes needle.json after every row, then needle.svg and the report between the markers of
needle.md. A run continues where the JSON ends; --report measures nothing. Density is executed blocks / blocks
of a dense causal kernel, over all layers, dense ones included.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel import Recipe, accelerated, summary
from accel.load.language_model import load_language_model
from accel.recipe.recipe import DENSE
from scripts.language.depths import Questions, Sample, draw_many
from scripts.language.methods import METHODS, available, reachable, shipped, turned
from scripts.language.report import PAGE, Row, plot, report
from scripts.page import insert
from scripts.row_file import read_table, write_table

DENSE_QUERIES = 64
SAMPLES = {1024: 4, 2048: 3, 4096: 2}
# Where the questions are, and how many of the last queries see every key.
MODES: dict[str, tuple[Questions, int]] = {
    "end": ("end", 0),
    "end, last queries dense": ("end", DENSE_QUERIES),
    "scattered": ("scattered", 0),
}


@torch.no_grad()
def hidden_states(model: Any, sample: Sample) -> Tensor:
    """The last layer's output, [length, width]."""
    return model.model(sample.tokens.to(model.device), use_cache=False).last_hidden_state[0]


@torch.no_grad()
def losses(model: Any, sample: Sample, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Of every token after the first: its negative log-likelihood, and whether it is the likeliest."""
    tokens = sample.tokens[0, 1:].to(hidden.device)
    logits = model.lm_head(hidden[:-1]).float()
    return torch.nn.functional.cross_entropy(logits, tokens, reduction="none"), logits.argmax(-1) == tokens


def measure(model: Any, recipe: Recipe, data: list[Sample], dense: list[Tensor]) -> dict[str, Any]:
    """The measured fields of a `Row`; `dense` are the samples' hidden states without acceleration."""
    right, answer_nll, text_nll, errors = [], [], [], []
    with accelerated(model, recipe, min_tokens=0):
        for sample, reference in zip(data, dense, strict=True):
            hidden = hidden_states(model, sample)
            errors.append(float((hidden - reference).norm() / reference.norm()))
            nll, likeliest = losses(model, sample, hidden)
            right.append(likeliest[sample.answers - 1].cpu())
            answer_nll.append(float(nll[sample.answers - 1].mean()))
            text_nll.append(float(nll.mean()))
        density = summary(model).density
    assert density is not None
    return {
        "density": density,
        "samples": len(data),
        "right_by_depth": tuple(torch.stack(right).sum(dim=0).tolist()),
        "answer_nll": sum(answer_nll) / len(data),
        "text_nll": sum(text_nll) / len(data),
        "error": sum(errors) / len(data),
    }


def plan(options: argparse.Namespace) -> Iterator[tuple[int, str, str, float | None]]:
    """(length, mode, method, density asked for): dense first; None is the recipe's own density."""
    for length in options.lengths:
        for mode in options.modes:
            yield length, mode, "dense", None
            if length in options.dense_only:
                continue
            for method in options.methods:
                if available(method):
                    densities = reachable(method, options.densities, length, MODES[mode][1])
                    if options.as_shipped:
                        yield length, mode, method, None
                    yield from ((length, mode, method, density) for density in densities)


def sweep(model: Any, options: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[Row]:
    """The rows that are not done yet, in the order of the plan."""
    drawn: dict[tuple[int, Questions], tuple[list[Sample], list[Tensor]]] = {}
    for length, mode, method, asked in plan(options):
        questions, dense_queries = MODES[mode]
        if (length, mode, method, asked) in done:
            continue
        recipe: Recipe | None = DENSE
        if method != "dense":
            recipe = turned(method, asked, length, dense_queries) if asked else shipped(method, dense_queries)
        if recipe is None:
            continue
        if (length, questions) not in drawn:
            data = draw_many(length, questions, options.samples or SAMPLES.get(length, 1), options.seed)
            drawn = {(length, questions): (data, [hidden_states(model, sample) for sample in data])}
        yield Row(method, mode, length, asked, **measure(model, recipe, *drawn[length, questions]))


def read_rows(path: Path) -> list[Row]:
    return [Row(**row | {"right_by_depth": tuple(row["right_by_depth"])}) for row in read_table(path)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="where to write: this name with .json, .svg and .md")
    parser.add_argument("--model", default="demo-llm", help="the embedded demo, or a folder of one like it")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192, 16384], help="tokens")
    parser.add_argument("--dense-only", type=int, nargs="*", default=[], help="lengths without any method")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.5])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="shipped recipes")
    parser.add_argument("--as-shipped", action="store_true", help="at the recipes' own densities, too")
    parser.add_argument("--samples", type=int, help="sequences a row; by default it depends on the length")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="write the report of what the JSON holds")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    store = options.out.with_suffix(".json")
    rows = read_rows(store)
    if not options.report:
        done = {(row.length, row.mode, row.method, row.asked) for row in rows}
        for row in sweep(load_language_model(options.model).model, options, done):
            rows.append(row)
            print(row, flush=True)
            write_table(store, map(asdict, rows))
    place = {name: number for number, name in enumerate((*MODES, "dense", *METHODS))}
    rows.sort(key=lambda row: (place[row.mode], place.get(row.method, len(place))))
    options.out.with_suffix(".svg").write_text(plot(rows), encoding="utf-8")
    insert(options.out.with_suffix(".md"), PAGE, report(rows))


if __name__ == "__main__":
    main()
