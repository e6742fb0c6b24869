"""The needle task: (key, value) pairs hidden in filler tokens, whose values are asked for at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, BOS, QUERY, EOS = range(4)
KEYS, VALUES, FILLERS = range(4, 132), range(132, 260), range(260, 460)
VOCAB_SIZE = 460


@dataclass(frozen=True)
class NeedleTask:
    """Sequences of bos, fillers with `pairs` (key, value) needles among them, `queries` of (?, key, value).

    length, pairs, queries: counts of tokens, needles and questions; no key occurs twice among the needles.
    """

    length: int
    pairs: int
    queries: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= len(KEYS):
            raise ValueError(f"pairs must be in [1, {len(KEYS)}], got {self.pairs}")
        if not 1 <= self.queries <= self.pairs:
            raise ValueError(f"queries must be in [1, pairs={self.pairs}], got {self.queries}")
        if self.body < 1 + 2 * self.pairs:
            raise ValueError(
                f"{self.pairs} pairs and {self.queries} queries do not fit in length {self.length}"
            )

    @property
    def body(self) -> int:
        """Tokens before the first query, the bos included."""
        return self.length - 3 * self.queries

    @property
    def answers(self) -> Tensor:
        """Positions of the values asked for, int64 [queries], each to be predicted from what precedes it."""
        return torch.arange(self.body + 2, self.length, 3)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One sequence, int64 [length], and the depth in the body of each asked needle, [queries]."""
        tokens = torch.randint(FILLERS.start, FILLERS.stop, (self.length,), generator=generator)
        tokens[0] = BOS
        slots = torch.randperm(self.body - 1 - self.pairs, generator=generator)[: self.pairs].sort().values
        places = slots + torch.arange(self.pairs) + 1
        keys = torch.randperm(len(KEYS), generator=generator)[: self.pairs] + KEYS.start
        values = torch.randint(VALUES.start, VALUES.stop, (self.pairs,), generator=generator)
        tokens[places], tokens[places + 1] = keys, values
        asked = torch.randperm(self.pairs, generator=generator)[: self.queries]
        questions = torch.stack([torch.full_like(asked, QUERY), keys[asked], values[asked]], dim=1)
        tokens[self.body :] = questions.flatten()
        return tokens, places[asked] / self.body


def needle_prompt(
    tokenizer: PreTrainedTokenizerBase, length: int, pairs: int = 4, seed: int = 0
) -> tuple[str, str]:
    """A prompt that asks for one of `pairs` hidden values, and the word that answers it.

    length: tokens of prompt and answer together, the bos that the tokenizer puts in front included.
    """
    tokens, _ = NeedleTask(length, pairs).sample(torch.Generator().manual_seed(seed))
    words = tokenizer.convert_ids_to_tokens(tokens.tolist())
    return " ".join(words[1:-1]), words[-1]
