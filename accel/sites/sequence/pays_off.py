"""PaysOff: whether the calls of one layer are worth running sparse on this machine."""

from __future__ import annotations

from torch import Tensor

from accel.machine.crossover import Shape, break_even
from accel.policies.policy import Policy

DENSE_FOR = 16
SLOWER = "dense is faster at this length on this machine"


class PaysOff:
    """Compares a recipe's actual density with the density above which dense is faster.

    The density of a call is known once its blocks are chosen. Where it was too high, the next `DENSE_FOR` - 1
    calls of about the same length run dense without choosing any.
    """

    def __init__(self) -> None:
        self._dense_for: dict[Shape, int] = {}

    def most(self, q: Tensor, k: Tensor, policy: Policy) -> float:
        """The highest density that pays off for a call; 0 if none does, or none did a short while ago."""
        shape = Shape.of(q, k)
        if self._dense_for.get(shape, 0):
            self._dense_for[shape] -= 1
            return 0.0
        return break_even(q, k, policy)

    def pays(self, q: Tensor, k: Tensor, density: Tensor, most: float) -> bool:
        """Whether a call's layout is sparse enough. Waits for the device, once a call."""
        if float(density) < most:
            return True
        self._dense_for[Shape.of(q, k)] = DENSE_FOR - 1
        return False
