"""Needle sequences for measuring: a needle in every part of the text, questions at the end or throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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
