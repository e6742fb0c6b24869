"""Measure what methods find in real text with real weights, at which density, next to true mass.

    python -m scripts.language.real rows.jsonl --model smollm2 --lengths 4096 --densities 0.3
    python -m scripts.language.real rows.jsonl --model Qwen/Qwen3-8B --lengths 8192 16384 --device cuda
    python -m scripts.language.real rows.jsonl --page docs/benchmarks/language.md

A row is one prompt under one method, appended to the file as soon as it is measured; a run continues where
the file ends. Facts are hidden in real text and asked for throughout it and at its end (facts.py).
Choose settings on `--split choosing` and report on `--split reporting`: they share nothing.

Methods are shipped recipes, files of your own, or the default with another of `SCORES`: "oracle" is the true
mass of blocks, at the full price of QKᵀ. `@ship` after a name leaves a recipe its own budget; otherwise it is
set to each of the densities. The last queries are sparse like all others unless `--dense-queries` says
otherwise, so that no query knows what is asked.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel import Recipe, accelerated, load_recipe, summary
from accel.policies.compose import Composed
from accel.policies.parts.always import Always
from accel.policies.parts.scores import Wanted
from accel.recipe.choose import LANGUAGE_MODELS
from accel.recipe.errors import RecipeError
from accel.recipe.recipe import DENSE, Rule
from scripts.language.facts import SPLITS, Prompt, draw
from scripts.language.methods import solve, turn_of, with_policy
from scripts.language.real_report import PAGE, SHIP, page, price
from scripts.language.texts import read
from scripts.language.weights import SHIPPED, in_bfloat16, load
from scripts.page import insert
from scripts.row_file import append_line, read_lines

METHODS = (
    "oracle",
    "llm-wanted",
    "llm-permuted-bounds",
    "llm-permuted",
    "llm-permuted-antidiagonal",
    "llm-xattention",
    "llm-hip",
    "llm-flexprefill",
    "llm-vertical-slash",
    "llm-a-shape",
)
# The default with another score; rows that share it are the same in all else.
SCORES = {
    "oracle": Wanted(query=1, channels=1.0),
    "quarter-channels": Wanted(query=4, channels=0.25),
    "eighth-rows": Wanted(query=8, channels=0.5),
}
# Dense attention of a model with sliding windows computes what its windows hide, too, and masks it.
EVERYTHING = Recipe(rules=(Rule(match="*", policy=Composed(always=Always(recent=2**30))),))


@dataclass(frozen=True)
class Row:
    """One prompt under one method.

    Args:
        split, text, number: which prompt, see `facts.draw`.
        asked: the density a recipe was turned to; None is its own budget.
        density: executed blocks / blocks of dense causal attention, over the layers that see everything.
        found, asked_for: tokens of answers that are the most likely ones, and all of them, by place.
        exact, facts: answers found whole, and all answers, by place.
        answer_nll, text_nll: mean negative log-likelihood in nats, of answers by place and of text.
        cpu_seconds, seconds: of the whole forward, by the processor's clock and the wall's.
        text_tokens: whose likelihood was measured, at most.
    """

    model: str
    length: int
    split: str
    text: str
    number: int
    method: str
    asked: float | None
    density: float
    found: dict[str, int]
    asked_for: dict[str, int]
    exact: dict[str, int]
    facts: dict[str, int]
    answer_nll: dict[str, float]
    text_nll: float
    cpu_seconds: float
    seconds: float
    text_tokens: int = 512

    @property
    def key(self) -> tuple[Any, ...]:
        return self.model, self.length, self.split, self.text, self.number, self.method, self.asked


def full_layers(model: Any) -> list[int]:
    """The layers without a sliding window."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]


def executed_density(model: Any) -> float:
    """Over the layers that see everything, a dense call counting 1."""
    sites = summary(model).sites
    account = [sites[layer] for layer in full_layers(model)]
    work = sum(site.calls - site.sparse_calls + site.sparse_calls * (site.density or 0) for site in account)
    return work / sum(site.calls for site in account)


@torch.no_grad()
def measure(model: Any, prompt: Prompt, recipe: Recipe, text_tokens: int = 512) -> dict[str, Any]:
    """The measured fields of a `Row`."""
    chosen = torch.randperm(len(prompt.text), generator=torch.Generator().manual_seed(0))[:text_tokens]
    text = prompt.text[chosen]
    spans = [torch.arange(first, first + count) for _, first, count in prompt.answers]
    places = torch.cat([*spans, text])
    tokens = prompt.tokens.to(model.device)
    with accelerated(model, recipe, min_tokens=0):
        started = time.perf_counter(), time.process_time()
        logits = model(tokens, use_cache=False, logits_to_keep=(places - 1).to(model.device)).logits[0]
        right, nll = judge(logits, tokens[0, places])
        ended = time.perf_counter(), time.process_time()
        density = executed_density(model)
    result: dict[str, Any] = {"density": density, "text_nll": float(nll[-len(text) :].mean())}
    result |= by_place(prompt, right, nll)
    return result | {"seconds": ended[0] - started[0], "cpu_seconds": ended[1] - started[1]}


def judge(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each token is the most likely one, and its negative log-likelihood in nats; on the host."""
    nll = torch.nn.functional.cross_entropy(logits.float(), tokens, reduction="none")
    return (logits.argmax(-1) == tokens).cpu(), nll.cpu()


def by_place(prompt: Prompt, right: Tensor, nll: Tensor) -> dict[str, dict[str, Any]]:
    fields = ("found", "asked_for", "exact", "facts", "answer_nll")
    result: dict[str, dict[str, Any]] = {field: {"scattered": 0, "end": 0} for field in fields}
    done = 0
    for place, _, count in prompt.answers:
        answer = slice(done, done + count)
        done += count
        result["found"][place] += int(right[answer].sum())
        result["asked_for"][place] += count
        result["exact"][place] += int(right[answer].all())
        result["facts"][place] += 1
        result["answer_nll"][place] += float(nll[answer].sum())
    for place, total in result["asked_for"].items():
        result["answer_nll"][place] /= max(total, 1)
    return result


@cache
def recipe_of(method: str, density: float | None, length: int, dense_queries: int) -> Recipe:
    """A method's recipe, turned to a density unless it is None; "dense" is dense.

    Raises:
        ValueError: if the method has nothing that can be turned.
    """
    if method == "dense":
        return DENSE
    name = method.removesuffix(SHIP)
    recipe = load_recipe(LANGUAGE_MODELS if name in SCORES else name)
    if name in SCORES:
        recipe = with_policy(recipe, replace(recipe.rules[0].policy, score=SCORES[name]))
    schedule = {
        "schedule": type(recipe.schedule)(**asdict(recipe.schedule) | {"dense_queries": dense_queries})
    }
    if density is None:
        return recipe if method.endswith(SHIP) else recipe.model_copy(update=schedule)
    recipe = recipe.model_copy(update=schedule)
    turn, policy = turn_of(recipe.rules[0].policy), recipe.rules[0].policy
    if turn is None:
        raise ValueError(f"{method} has no budget that this script can turn; ask for {method}{SHIP}")
    return solve(lambda knob: with_policy(recipe, turn(policy, knob, length)), density, length)


def plan(options: argparse.Namespace, model: str) -> Iterator[tuple[int, str, int, str, float | None]]:
    """(length, text, number, method, density asked for): one prompt under all methods, dense first."""
    for length in options.lengths:
        for text in options.texts:
            for number in range(options.first, options.first + options.prompts):
                yield length, text, number, "dense", None
                for method in options.methods:
                    densities = [None] if method.endswith(SHIP) else options.densities
                    yield from ((length, text, number, method, density) for density in densities)


def sweep(options: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[Row]:
    """The rows that are not done yet."""
    missing = [
        (length, text, number, method, density)
        for length, text, number, method, density in plan(options, options.model)
        if (options.model, length, options.split, text, number, method, density) not in done
    ]
    if not missing:
        return
    model, tokenizer = load(options.model, options.device)
    if model.device.type == "cpu" and not options.float32:
        in_bfloat16(model)
    split = SPLITS[options.split]
    for length, text, number, method, density in missing:
        recipe = recipe_of(method, density, length, options.dense_queries)
        if recipe is DENSE and len(full_layers(model)) < model.config.get_text_config().num_hidden_layers:
            recipe = EVERYTHING
        prompt = prompt_of(tokenizer, options.split, split.texts.get(text, text), length, number)
        yield Row(
            options.model, length, options.split, text, number, method, density,
            **measure(model, prompt, recipe, options.text_tokens), text_tokens=options.text_tokens,
        )  # fmt: skip


TOKENS: dict[str, list[int]] = {}


def prompt_of(tokenizer: Any, split: str, text: str, length: int, number: int) -> Prompt:
    if text not in TOKENS:
        TOKENS[text] = tokenizer(read(text), add_special_tokens=False).input_ids
    return draw(tokenizer, TOKENS[text], length, SPLITS[split], number)


def prices(rows: list[Row]) -> dict[str, float | None]:
    """What the score of each method costs, as a share of QKᵀ, except of those whose recipe is not here."""
    shares = {}
    for method in {row.method for row in rows} - {"dense"}:
        with suppress(RecipeError):
            policy = recipe_of(method, None, 4096, 0).rules[0].policy
            shares[method] = price(getattr(policy, "score", None))
    return shares


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="where rows are kept, JSON lines")
    parser.add_argument(
        "--model", default="smollm2", help=f"{', '.join(SHIPPED)}, a GGUF file, a folder or a hub id"
    )
    parser.add_argument("--device", help="the best available by default")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096], help="tokens of a prompt")
    parser.add_argument("--split", choices=SPLITS, default="choosing")
    parser.add_argument(
        "--texts", nargs="+", default=["prose", "code"], help="prose, code, or a file of your own"
    )
    parser.add_argument("--prompts", type=int, default=6, help="of each length and text")
    parser.add_argument("--first", type=int, default=0, help="number of the first prompt")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--densities", type=float, nargs="+", default=[0.3])
    parser.add_argument("--text-tokens", type=int, default=2048, help="whose likelihood is measured")
    parser.add_argument("--dense-queries", type=int, default=0, help="last queries that see everything")
    parser.add_argument("--page", type=Path, help="write the tables into this page, measure nothing")
    parser.add_argument("--float32", action="store_true", help="linear layers too, on a CPU")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rows = [Row(**row) for row in read_lines(options.out)]
    if options.page:
        insert(options.page, PAGE, page(rows, prices(rows)))
        return
    for row in sweep(options, {row.key for row in rows}):
        append_line(options.out, asdict(row))
        found = {place: f"{row.found[place]}/{row.asked_for[place]}" for place in row.found}
        print(row.model, row.length, row.text, row.number, row.method, row.asked, f"{row.density:.3f}", found,
              f"{row.text_nll:.3f}", f"{row.cpu_seconds:.1f}s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
