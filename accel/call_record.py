"""CallRecord: what the attention calls of one site did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class CallRecord:
    """Counts of one site since its recipe was applied. Densities stay on the device until they are read.

    Args:
        dense: calls that ran dense, by reason.
        sparse: densities of the calls that ran sparse, by denoising step (none where it is not known).
        dense_steps: steps of the dense calls, likewise.
    """

    dense: Counter[str] = field(default_factory=Counter)
    sparse: dict[int | None, list[Tensor]] = field(default_factory=dict)
    dense_steps: Counter[int | None] = field(default_factory=Counter)

    def count_dense(self, reason: str, step: int | None) -> None:
        self.dense[reason] += 1
        self.dense_steps[step] += 1

    def count_sparse(self, density: Tensor, step: int | None) -> None:
        self.sparse.setdefault(step, []).append(density)

    @property
    def sparse_calls(self) -> int:
        return sum(len(densities) for densities in self.sparse.values())

    @property
    def calls(self) -> int:
        return self.sparse_calls + sum(self.dense.values())

    def density(self) -> float | None:
        """Mean density of the sparse calls; none without any. Waits for the device."""
        densities = [float(density) for values in self.sparse.values() for density in values]
        return sum(densities) / len(densities) if densities else None

    def density_by_step(self) -> dict[int, float]:
        """Mean density of each known step, a dense call counting 1."""
        steps = {step for step in (*self.sparse, *self.dense_steps) if step is not None}
        return {step: self._mean_at(step) for step in sorted(steps)}

    def _mean_at(self, step: int) -> float:
        densities = [float(density) for density in self.sparse.get(step, [])]
        dense_calls = self.dense_steps[step]
        return (sum(densities) + dense_calls) / (len(densities) + dense_calls)
