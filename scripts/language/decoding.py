"""Measure which answers survive each way of finding keys for single tokens, next to true attention.

    python -m scripts.language.decoding rows.jsonl --model gemma3 --length 4096 --budgets 512

The prompts are those of real.py. A prompt is read dense up to the first question of its last lines; from
there on tokens are decoded one at a time, the right ones whatever the model would have said, and an answer
token counts if it was the likeliest. All ways have the same sink, window and budget of keys, and decode side
by side as one batch. "oracle" takes the blocks with the most true attention, found again for every token. One
prompt under one way is a row; a run continues where the file ends.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from accel import Recipe, accelerated
from accel.policies.decode.bounds import DecodeByBounds
from accel.policies.decode.channels import DecodeByChannels
from accel.policies.decode.search import DecodeSearch
from accel.policies.decode.stages import Decode
from accel.recipe.recipe import DENSE, Rule
from accel.recipe.schedule import Schedule
from scripts.language.facts import FACTS, SPLITS, Prompt
from scripts.language.real import judge, prompt_of
from scripts.language.side_by_side import DecodeOnly, SideBySide
from scripts.language.weights import in_bfloat16, load
from scripts.page import insert, markdown
from scripts.row_file import append_line, read_lines

SINK, WINDOW = 64, 128
LONGEST_QUESTION = 40  # tokens
KEY = ("model", "length", "split", "text", "number", "way", "budget")
DENSE_CASE = ("dense", 0)
PAGE = "language.decoding"  # the markers of its part of the page
HEAD = ("blocks by", "budget", "keys read")


def ways(budget: int) -> dict[str, DecodeSearch]:
    """Every way to find keys, by name."""
    ends: dict[str, Any] = {"budget": budget, "sink": SINK, "window": WINDOW}
    return {
        "oracle": DecodeByChannels(channels=1.0, **ends),
        "channels": DecodeByChannels(**ends),
        "channels, an eighth": DecodeByChannels(channels=0.125, **ends),
        "bounds": DecodeByBounds(refresh=(16, 1), **ends),
        "bounds, each for 4 tokens": DecodeByBounds(refresh=(16, 4), **ends),
        "stages": Decode(**ends),
        "stages, each for 4 tokens": Decode(refresh=(16, 8, 4), **ends),
    }


def recipe_of(search: SideBySide) -> Recipe:
    schedule = Schedule(sparse_decode=True, min_tokens=0)
    return Recipe(rules=(Rule(match="*", policy=DecodeOnly(search)),), schedule=schedule)


def up_to(prompt: Prompt, questions: int) -> Prompt:
    """The prompt until a number of the questions in its last lines are answered, and no other question."""
    answers = sorted(answer for answer in prompt.answers if answer[0] == "end")[:questions]
    _, first, count = answers[-1]
    return Prompt(prompt.tokens[:, : first + count + 1], tuple(answers), prompt.text)


@torch.no_grad()
def prefill(model: Any, prompt: Prompt) -> tuple[Any, int]:
    """The cache of the tokens before the last lines, and how many they are."""
    first_answer = min(first for place, first, _ in prompt.answers if place == "end")
    start = first_answer - LONGEST_QUESTION
    tokens = prompt.tokens[:, :start].to(model.device)
    return model(tokens, use_cache=True, logits_to_keep=1).past_key_values, start


@torch.no_grad()
def measure(
    model: Any, prompt: Prompt, cache: Any, start: int, searches: list[DecodeSearch] | None
) -> list[dict[str, Any]]:
    """The measured fields of a row for each search, all decoded at once; of dense attention without any."""
    together = None if searches is None else SideBySide.of(searches)
    ways = len(searches or [DENSE])
    cache = copy.deepcopy(cache)
    cache.batch_repeat_interleave(ways)
    tokens = prompt.tokens.to(model.device).expand(ways, -1)
    logits = {}
    with accelerated(model, DENSE if together is None else recipe_of(together)):
        for place in range(start, tokens.shape[1] - 1):
            out = model(tokens[:, place : place + 1], past_key_values=cache, use_cache=True)
            logits[place + 1] = out.logits[:, -1]
    answers = [range(first, first + count) for place, first, count in prompt.answers if place == "end"]
    densities = [1.0] if together is None else [mean(each or [1.0]) for each in together.densities]
    return [
        {"density": density} | account(answers, tokens[0], {n: each[sample] for n, each in logits.items()})
        for sample, density in enumerate(densities)
    ]


def account(answers: list[range], tokens: Tensor, logits: dict[int, Tensor]) -> dict[str, Any]:
    """How many tokens and whole answers are right, and their mean negative log-likelihood in nats."""
    judged = [judge(torch.stack([logits[n] for n in answer]), tokens[list(answer)]) for answer in answers]
    asked_for = sum(map(len, answers))
    return {
        "found": sum(int(right.sum()) for right, _ in judged),
        "asked_for": asked_for,
        "exact": sum(int(right.all()) for right, _ in judged),
        "facts": len(answers),
        "nll": sum(float(nll.sum()) for _, nll in judged) / asked_for,
    }


def sweep(options: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """The rows that are not done yet; those of one prompt are measured together."""
    model, tokenizer = load(options.model, options.device)
    if model.device.type == "cpu":
        in_bfloat16(model)
    cases = {(way, n): search for n in options.budgets for way, search in ways(n).items()}
    for text in options.texts:
        for number in range(options.prompts):
            where = (options.model, options.length, options.split, text, number)
            missing = {case: search for case, search in cases.items() if (*where, *case) not in done}
            runs: list[tuple[list[tuple[str, int]], list[DecodeSearch] | None]] = []
            if (*where, *DENSE_CASE) not in done:
                runs.append(([DENSE_CASE], None))
            if missing:
                runs.append((list(missing), list(missing.values())))
            if not runs:
                continue
            name = SPLITS[options.split].texts.get(text, text)
            prompt = prompt_of(tokenizer, options.split, name, options.length, number)
            prompt = up_to(prompt, options.questions)
            cache, start = prefill(model, prompt)
            for names, searches in runs:
                measured = measure(model, prompt, cache, start, searches)
                for case, fields in zip(names, measured, strict=True):
                    yield dict(zip(KEY, (*where, *case), strict=True)) | fields


def page(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each split, model and length."""
    fields = ("split", "model", "length")
    ordered = sorted(rows, key=lambda row: [row[field] for field in fields])
    parts = groupby(ordered, key=lambda row: tuple(row[field] for field in fields))
    return "\n\n".join(
        f"### {model}, {length:,} tokens, {split}\n\n{table(list(part))}"
        for (split, model, length), part in parts
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each way and budget, a column for each prompt and number of questions."""
    prompts = sorted({prompt_in(row) for row in rows}, reverse=True)
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: -row["budget"] if row["budget"] else -1e9):
        cells.setdefault((row["way"], row["budget"]), []).append(row)
    head = [*HEAD, *(f"{text} {number}, {questions} questions" for text, number, questions in prompts)]
    return markdown(head, [line(cell, prompts) for cell in cells.values()])


def prompt_in(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["text"], row["number"], row["facts"]


def line(cell: list[dict[str, Any]], prompts: list[tuple[str, int, int]]) -> list[str]:
    """The rows of one way and budget: answer tokens right and their NLL, by prompt."""
    of = {prompt_in(row): f"{row['found']} of {row['asked_for']}, {row['nll']:.2f}" for row in cell}
    read = mean(row["density"] for row in cell)
    return [
        cell[0]["way"],
        str(cell[0]["budget"] or "-"),
        f"{read:.3f}",
        *(of.get(each, "") for each in prompts),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="where rows are kept, JSON lines")
    parser.add_argument("--model", default="gemma3", help="as for real.py")
    parser.add_argument("--device", help="the best available by default")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a prompt")
    parser.add_argument("--split", choices=SPLITS, default="choosing")
    parser.add_argument("--texts", nargs="+", default=["prose", "code"])
    parser.add_argument("--prompts", type=int, default=2, help="of each text")
    parser.add_argument("--questions", type=int, default=FACTS, help="of the last lines of a prompt")
    parser.add_argument("--budgets", type=int, nargs="+", default=[512], help="keys found for a token")
    parser.add_argument("--page", type=Path, help="write the table into this page, measure nothing")
    options = parser.parse_args()
    rows = read_lines(options.out)
    if options.page:
        insert(options.page, PAGE, page(rows))
        return
    for row in sweep(options, {tuple(row[field] for field in KEY) for row in rows}):
        append_line(options.out, row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
