"""Texts: the user's own, with facts planted in them, and what a model makes of each under a recipe."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accel.accelerate import accelerated, summary
from accel.mistake import Mistake
from accel.recipe.recipe import DENSE, Recipe

NAMES = ("amber", "basalt", "cedar", "delta")
LEAST_TOKENS, MOST_JUDGED = 512, 512


@dataclass(frozen=True)
class Sample:
    """One text with its facts, each of which is asked for at its end.

    Args:
        tokens: int64 [N].
        judged: positions in the second half of the text, whose next tokens' likelihood is looked at.
        answers: of each fact, the positions of its answer's tokens.
    """

    tokens: Tensor
    judged: Tensor
    answers: tuple[Tensor, ...]


@dataclass(frozen=True)
class Reading:
    """One text under one recipe.

    Args:
        loss: mean negative log-likelihood of the judged tokens, in nats.
        found: of each fact, whether every token of its answer was the likeliest.
        seconds: of the forward.
        work: executed blocks / those of dense attention.
    """

    loss: float
    found: tuple[bool, ...]
    seconds: float
    work: float


def plant(tokenizer: Any, text: str, seed: int, most_tokens: int) -> Sample:
    """A text, cut to a length, with facts planted at even distances and asked for at the end.

    Args:
        seed: the text's number, from 0.

    Raises:
        Mistake: if it is too short to leave anything out.
    """
    words = tokenizer(text, add_special_tokens=False).input_ids[:most_tokens]
    if len(words) < LEAST_TOKENS:
        raise Mistake(f"text {seed + 1}: tuning needs at least {LEAST_TOKENS} tokens, got {len(words)}")
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    codes = random.Random(seed)
    facts = [(name, str(codes.randrange(10_000, 100_000))) for name in NAMES]
    tokens = list(start)
    for number, (name, code) in enumerate(facts):
        here, there = (len(words) * (2 * n + 1) // (2 * len(facts)) for n in (number - 1, number))
        tokens += words[max(here, 0) : there] + _ids(tokenizer, f"\nThe secret code of {name} is {code}.\n")
    tokens += words[there:]
    judged = torch.linspace(len(tokens) // 2, len(tokens) - 2, MOST_JUDGED).long().unique()
    answers = []
    for name, code in facts:
        question, whole = (f"\nThe secret code of {name} is", f"\nThe secret code of {name} is {code}.")
        asked, all_of_it = _ids(tokenizer, question), _ids(tokenizer, whole)
        same = sum(a == b for a, b in zip(asked, all_of_it, strict=False))
        answers.append(torch.arange(len(tokens) + same, len(tokens) + len(all_of_it) - 1))
        tokens += all_of_it
    return Sample(torch.tensor(tokens), judged, tuple(answers))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def read(model: Any, sample: Sample, recipe: Recipe = DENSE) -> Reading:
    """One forward over a text under a recipe."""
    places = torch.cat([sample.judged, *(answer - 1 for answer in sample.answers)])
    tokens = sample.tokens.to(model.device)
    with torch.no_grad(), accelerated(model, recipe):
        began = time.perf_counter()
        logits = model(tokens[None], logits_to_keep=places.to(model.device), use_cache=False).logits[0]
        likeliest = logits.argmax(dim=-1).cpu()  # Waits for the device.
        seconds = time.perf_counter() - began
        work = summary(model).density or 1.0
    judged = logits[: len(sample.judged)].float().log_softmax(dim=-1)
    right = tokens[sample.judged.to(tokens.device) + 1]
    loss = -judged.gather(1, right[:, None]).mean().item()
    found, at = [], len(sample.judged)
    for answer in sample.answers:
        found.append(bool((likeliest[at : at + len(answer)] == sample.tokens[answer]).all()))
        at += len(answer)
    return Reading(loss, tuple(found), seconds, work)
