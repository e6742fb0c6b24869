"""Branches: which pass of guidance a forward is, among the forwards of one denoising step."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Branches:
    """Numbers the passes of guidance, so that one keeps its number through the steps of a generation.

    A pass is known by its text and by how often that text came before in the step: a skip-layer pass has the
    conditional pass's text. So a pass that is left out in some steps takes no other pass's number. Texts are
    distinguished by identity, which costs no device read; where a pipeline makes new ones for every forward,
    passes are numbered in the order they come.
    """

    _known: dict[int, tuple[weakref.ref[Tensor], int]] = field(default_factory=dict)
    _in_step: set[int] = field(default_factory=set)

    @property
    def passes(self) -> int:
        """How many passes the step had so far."""
        return len(self._in_step)

    def begin_step(self) -> None:
        """Forget which passes the step had."""
        self._in_step = set()

    def number(self, text: Tensor | None) -> int:
        """The number of the next forward of the step, which was given this text; None if it is not known."""
        if text is None:
            number = self._first_free(set())
        else:
            self._known = {n: pass_ for n, pass_ in self._known.items() if pass_[0]() is not None}
            number = self._known_number(text)
        self._in_step.add(number)
        return number

    def _known_number(self, text: Tensor) -> int:
        numbers = [n for n, (known, _) in self._known.items() if known() is text]
        before = sum(n in self._in_step for n in numbers)
        for n in numbers:
            if self._known[n][1] == before:
                return n
        number = self._first_free(set(self._known))
        self._known[number] = (weakref.ref(text), before)
        return number

    def _first_free(self, taken: set[int]) -> int:
        return next(n for n in range(len(taken) + len(self._in_step) + 1) if n not in taken | self._in_step)


def text_of(kwargs: Mapping[str, Any]) -> Tensor | None:
    """The text a forward was given, by its named arguments; of several captions the first; None without."""
    text = kwargs.get("encoder_hidden_states", kwargs.get("cap_feats"))
    if isinstance(text, list | tuple) and text:
        text = text[0]
    return text if isinstance(text, Tensor) else None
