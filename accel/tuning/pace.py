"""Pace: what a tuning does next, how much of it is done, and about how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from accel.tuning.target import counted

Progress = Callable[[str, float], None]


def silent(text: str, share: float) -> None:
    """Report to nobody."""


@dataclass
class Pace:
    """The pace of one tuning.

    Args:
        tell: hears what is done next, and the share of everything that is done by then, in [0, 1].
        expected: about how many generations in all; 0 until that is known.
    """

    tell: Progress = silent
    expected: int = 0
    _known: set[str] = field(default_factory=set)
    _ran: int = 0
    _seconds: float = 0.0
    _began: float | None = field(default=None, repr=False)

    def next(self, text: str) -> None:
        """Something that takes time begins."""
        finished = len(self._known)
        share = min(finished / self.expected, 0.99) if self.expected else 0.0
        left = ""
        if self._ran and self.expected > finished:
            minutes = self._seconds / self._ran * (self.expected - finished) / 60
            about = round(minutes)
            left = f", about {counted(about, 'minute')} left" if about else ", less than a minute left"
        self.tell(f"{text}{left}", share)
        self._began = time.perf_counter()

    def done(self, key: str) -> None:
        """It has ended, or was in the folder already; counted once for a key."""
        self._known.add(key)
        if self._began is not None:
            self._seconds += time.perf_counter() - self._began
            self._ran += 1
            self._began = None
