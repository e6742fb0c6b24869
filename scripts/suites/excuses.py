"""Excuses: why a test of another library may fail with its model accelerated."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

LIST = Path(__file__).with_name("excuses.yaml")


@dataclass(frozen=True)
class Excuse:
    """A reason for tests to fail.

    Args:
        test: their ids with brackets; `*` matches anything.
        modes: kept, sparse, or both.
        why: a sentence.
    """

    test: str
    modes: tuple[str, ...]
    why: str

    def __post_init__(self) -> None:
        if not self.why or not self.modes or not set(self.modes) <= {"kept", "sparse"}:
            raise ValueError(f"an excuse needs a reason, and modes that are kept or sparse: {self}")

    def covers(self, test: str, mode: str) -> bool:
        """Whether this is the reason for a test's failure in a mode."""
        return mode in self.modes and fnmatchcase(test.replace("[", "("), self.test.replace("[", "("))


def excuses() -> list[Excuse]:
    """What `excuses.yaml` lists.

    Raises:
        ValueError: if an entry is incomplete.
    """
    return [Excuse(row["test"], tuple(row["modes"]), row["why"]) for row in yaml.safe_load(LIST.read_text())]
