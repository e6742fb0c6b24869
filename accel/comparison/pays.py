"""Pays: from how many tokens sparse attention is faster than dense, by what one run took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionTime:
    """Seconds of a run's sparse attention calls, and of as many dense ones.

    Args:
        tokens: of a call.
        density: mean of the sparse calls, in (0, 1].
    """

    tokens: int
    density: float
    sparse: float
    dense: float

    @property
    def pays_from(self) -> int | None:
        """Tokens, to two digits, from which the sparse calls take less; None where no length does.

        Time for the blocks that are kept is taken to grow as dense attention does, with the square of the
        tokens, and everything else (choosing blocks, gathering them) in proportion to them.
        """
        spared = self.dense * (1 - self.density)
        if spared <= 0:
            return None
        rest = max(self.sparse - self.density * self.dense, 0.0)
        return int(float(f"{self.tokens * rest / spared:.2g}"))
