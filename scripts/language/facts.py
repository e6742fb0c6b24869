"""Prompts with facts hidden in real text and asked for later: throughout the text and at its end.

Answers are part of the prompt (teacher forcing), so one forward measures all of them and the likelihood of
the text between them. The prompts to choose settings on and those to report on share no wording, name, word
or text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Place = Literal["scattered", "end"]
FACTS = 6  # asked for in each place


@dataclass(frozen=True)
class Wording:
    """How a fact is stated and asked for.

    Args:
        fact: a sentence with {name} and {value}.
        question: the text before the value when it is asked for, with {name}.
        close: what follows the value there.
        gap: between the question and the value; part of the value's first token.
    """

    fact: str
    question: str
    close: str = "."
    gap: str = " "


@dataclass(frozen=True)
class Split:
    """What one set of prompts is made of."""

    texts: dict[str, str]
    wordings: dict[str, Wording]
    names: tuple[str, ...]
    words: tuple[str, ...]


CHOOSING = Split(
    texts={"prose": "reference", "code": "library-a"},
    wordings={
        "access code": Wording(
            "Note: the access code of {name} is {value}.",
            "Question: What is the access code of {name}? Answer: the access code of {name} is",
        ),
        "pet": Wording(
            "The pet of {name} is called {value}.",
            "Q: How is the pet of {name} called? A: The pet of {name} is called",
        ),
        "comment": Wording(
            "# the owner of {name} is {value}", "# who is the owner of {name}? The owner of {name} is", ""
        ),
    },
    names=(
        "Alder", "Brandt", "Corvin", "Delacroix", "Ekstrom", "Farrow", "Galvez", "Hartmann", "Iversen",
        "Jankowski", "Keswick", "Lindqvist", "Moreau", "Novak", "Okafor", "Petrov",
    ),
    words=(
        "lantern", "cactus", "harbour", "violin", "pepper", "glacier", "walnut", "compass", "velvet",
        "thunder", "marble", "orchid", "saddle", "copper", "falcon", "ginger",
    ),
)  # fmt: skip

REPORTING = Split(
    texts={"prose": "book", "code": "library-b"},
    wordings={
        "locker": Wording(
            "Please remember that locker {value} belongs to {name}; {name} must use locker {value}.",
            "Which locker belongs to {name}? As said before, {name} must use locker",
        ),
        "password": Wording(
            "The password that {name} chose was {value}.",
            "To log in as {name}, one types this: the password that {name} chose was",
        ),
        "table": Wording('TICKETS["{name}"] = "{value}"', 'assert TICKETS["{name}"] == "', '"', ""),
    },
    names=(
        "Quimby", "Rosales", "Sandoval", "Thackeray", "Umarov", "Vasquez", "Whitlock", "Yamada", "Zielinski",
        "Ashdown", "Bellamy", "Castell", "Dunmore", "Everett", "Fontaine", "Gresham",
    ),
    words=(
        "basket", "candle", "dragon", "emerald", "fountain", "garlic", "hammer", "island", "jacket", "kettle",
        "lemon", "mirror", "needle", "oyster", "pillow", "ribbon",
    ),
)  # fmt: skip

SPLITS = {"choosing": CHOOSING, "reporting": REPORTING}


@dataclass(frozen=True)
class Prompt:
    """One prompt [1, length]: its answers (place, first position, length), and positions of plain text."""

    tokens: Tensor
    answers: tuple[tuple[Place, int, int], ...]
    text: Tensor


@dataclass(frozen=True)
class Item:
    """Tokens to insert at a fraction of the text; `answer` is where the answer is in them."""

    at: float
    ids: list[int]
    place: Place | None = None
    answer: tuple[int, int] = (0, 0)


def draw(tokenizer: Any, text: Sequence[int], length: int, split: Split, number: int) -> Prompt:
    """The prompt of a number, of exactly `length` tokens; wordings and kinds of answers take turns.

        Facts that are asked for throughout are in the first half, their questions in the second with text
    after them; those asked for at the end are anywhere.

        Args:
            text: tokens of a real text, at least `length`.
    """
    chance = random.Random(number)
    wording = list(split.wordings.values())[number % len(split.wordings)]
    numbers = number % 2 == 0
    names = chance.sample(split.names, 2 * FACTS)
    items, last = [], []
    for count, name in enumerate(names):
        value = str(chance.randrange(10_000, 100_000)) if numbers else " ".join(chance.sample(split.words, 2))
        part, place = count % FACTS, ("scattered" if count < FACTS else "end")
        within = (part + chance.random()) / FACTS
        items.append(
            Item(within * (0.5 if place == "scattered" else 0.9), _fact(tokenizer, wording, name, value))
        )
        asked = _question(tokenizer, wording, name, value, place, 0.5 + 0.45 * chance.random())
        (items if place == "scattered" else last).append(asked)
    chance.shuffle(last)
    start = tokenizer("").input_ids
    room = length - len(start) - sum(len(item.ids) for item in (*items, *last))
    first = chance.randrange(len(text) - room)
    return _assemble(start, list(text[first : first + room]), sorted(items, key=lambda item: item.at), last)


def _fact(tokenizer: Any, wording: Wording, name: str, value: str) -> list[int]:
    return _ids(tokenizer, f"\n{wording.fact.format(name=name, value=value)}\n")


def _question(tokenizer: Any, wording: Wording, name: str, value: str, place: Any, at: float) -> Item:
    before = _ids(tokenizer, "\n" + wording.question.format(name=name))
    answer = _ids(tokenizer, wording.gap + value)
    ids = before + answer + _ids(tokenizer, wording.close + "\n")
    return Item(at, ids, place, (len(before), len(answer)))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _assemble(start: list[int], text: list[int], items: list[Item], last: list[Item]) -> Prompt:
    ids, plain, answers = list(start), [], []
    done = 0
    for item in (*items, *last):
        upto = len(text) if item in last else round(item.at * len(text))
        plain += range(len(ids) + 1, len(ids) + upto - done)
        ids += text[done:upto]
        done = upto
        if item.place is not None:
            answers.append((item.place, len(ids) + item.answer[0], item.answer[1]))
        ids += item.ids
    return Prompt(torch.tensor([ids]), tuple(answers), torch.tensor(plain))
