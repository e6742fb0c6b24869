"""Needle sequences with one needle in every part of the text, and what the demo model finds in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from accel import Recipe, accelerated, summary
from accel.demo.needle import BOS, FILLERS, KEYS, QUERY, VALUES

Questions = Literal["end", "scattered"]
DEPTHS = 8
QUESTION = 3  # tokens: the mark, the key, the value


@dataclass(frozen=True)
class Sample:
    """One sequence [1, length], and the positions of its answers [DEPTHS], the shallowest needle first."""

    tokens: Tensor
    answers: Tensor


def draw(length: int, questions: Questions, generator: torch.Generator) -> Sample:
    """A sequence with one (key, value) pair in each of `DEPTHS` equal parts of the text, all asked for once.

    Questions are at the "end", in random order and after everything else; or "scattered" over the second
    half, with filler between and after them, and then the needles are in the first half.

    Raises:
        ValueError: if the parts are too short for a pair and a question.
    """
    asked = DEPTHS * QUESTION
    body = length - asked if questions == "end" else length // 2
    if (body - 1) // DEPTHS < 2 or (length - body) // QUESTION < DEPTHS:
        raise ValueError(f"{DEPTHS} needles and their questions do not fit in {length} tokens")
    part = (body - 1) // DEPTHS
    within = torch.randint(part - 1, (DEPTHS,), generator=generator)
    places = 1 + torch.arange(DEPTHS) * part + within
    slots = torch.randperm((length - body) // QUESTION, generator=generator)[:DEPTHS]
    asks = body + slots * QUESTION
    keys = torch.randperm(len(KEYS), generator=generator)[:DEPTHS] + KEYS.start
    values = torch.randint(VALUES.start, VALUES.stop, (DEPTHS,), generator=generator)
    tokens = torch.randint(FILLERS.start, FILLERS.stop, (length,), generator=generator)
    tokens[0] = BOS
    tokens[places], tokens[places + 1] = keys, values
    tokens[asks], tokens[asks + 1], tokens[asks + 2] = torch.full_like(keys, QUERY), keys, values
    return Sample(tokens[None], asks + 2)


def draw_many(length: int, questions: Questions, count: int, seed: int = 0) -> list[Sample]:
    """The same sequences for every method."""
    generator = torch.Generator().manual_seed(seed)
    return [draw(length, questions, generator) for _ in range(count)]


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
    """What a recipe does to sequences; `dense` are their hidden states without acceleration.

    Returns:
        density: executed blocks / blocks of a dense causal kernel, over all layers, dense ones included.
        right_by_depth: how many samples found the needle, the shallowest first.
        answer_nll, text_nll: mean negative log-likelihood of the answers and of all tokens, in nats.
        error: norm(h - dense h) / norm(dense h) of the last layer's output, mean over the sequences.
    """
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
        "right_by_depth": tuple(torch.stack(right).sum(dim=0).tolist()),
        "answer_nll": sum(answer_nll) / len(data),
        "text_nll": sum(text_nll) / len(data),
        "error": sum(errors) / len(data),
    }
