"""CallRecord: what the attention calls of one site did."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor

# One for all sites, since records are copied and pickled with their models.
_COUNTING = threading.Lock()


@dataclass(frozen=True)
class Densities:
    """Of some calls: how many, and the sum of their densities, a scalar that stays on its device until read.

    A sum, not a list: a process that serves requests for days must not grow.
    """

    count: int
    total: Tensor


Part = int | str | None
"""What a call was part of: a denoising step, a language model's `PROMPT` or `DECODING`; None if unknown."""

PROMPT, DECODING = "prompt", "decoding"


@dataclass
class CallRecord:
    """Counts of one site since its recipe was applied.

    Args:
        dense: calls that ran dense, by reason.
        sparse: the calls that ran sparse, by what they were part of.
        dense_steps: the same of the dense calls.
        shared: calls that executed nothing, since the other pass of guidance had computed the same, by step.
    """

    dense: Counter[str] = field(default_factory=Counter)
    sparse: dict[Part, Densities] = field(default_factory=dict)
    dense_steps: Counter[Part] = field(default_factory=Counter)
    shared: Counter[Part] = field(default_factory=Counter)

    def count_dense(self, reason: str, step: Part) -> None:
        with _COUNTING:
            self.dense[reason] += 1
            self.dense_steps[step] += 1

    def count_sparse(self, density: Tensor, step: Part) -> None:
        with _COUNTING:
            before = self.sparse.get(step, Densities(0, density.new_zeros(())))
            self.sparse[step] = Densities(before.count + 1, before.total.to(density.device) + density)

    def count_shared(self, step: Part) -> None:
        with _COUNTING:
            self.shared[step] += 1

    @property
    def shared_calls(self) -> int:
        return sum(self.shared.values())

    @property
    def sparse_calls(self) -> int:
        return sum(calls.count for calls in self.sparse.values())

    @property
    def calls(self) -> int:
        return self.sparse_calls + sum(self.dense.values()) + self.shared_calls

    def density(self) -> float | None:
        """Mean density of the sparse calls; None without any. Waits for the device."""
        if not self.sparse:
            return None
        return sum(float(calls.total) for calls in self.sparse.values()) / self.sparse_calls

    def phases(self) -> dict[str, tuple[int, float]]:
        """Calls of a language model's prompts and of its decoding, and their mean density, a dense call
        counting 1. Empty for models that know no such thing."""
        known = [part for part in (PROMPT, DECODING) if part in self.sparse or part in self.dense_steps]
        return {part: self._at(part) for part in known}

    def _at(self, part: Part) -> tuple[int, float]:
        dense, sparse = self.dense_steps[part], self.sparse.get(part)
        if sparse is None:
            return dense, 1.0
        return dense + sparse.count, (float(sparse.total) + dense) / (sparse.count + dense)
