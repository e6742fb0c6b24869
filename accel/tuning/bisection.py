"""Bisection: the density of one family that only just meets a target, by whole generations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from accel.tuning.candidates import LEAST, MOST
from accel.tuning.point import Unreachable
from accel.tuning.target import Target

ROUNDS = 5
CLOSE = 0.15
SLOPE = 4.0  # of the logarithm of what is lost over density: a guess until two points show it
LEAST_STEP, LONGEST_STEP = 0.04, 0.35


class Tried(Protocol):
    """One density that was tried: the target's figure, with an allowance for the prompts it was tried on."""

    def cautious(self, target: Target) -> float: ...


P = TypeVar("P", bound=Tried)


@dataclass
class Bisection(Generic[P]):
    """The points of one search, `lost` by the target's metric.

    Args:
        point_at: a density, by whole generations.
        target: what is asked for.
        close: how far inside the target a point may be, as a share of what it loses, and be the last one.
    """

    point_at: Callable[[float], P]
    target: Target
    close: float = CLOSE
    lost: dict[float, float] = field(default_factory=dict)
    points: dict[float, P] = field(default_factory=dict)

    def search(self, start: float, known: Iterable[float] = ()) -> P:
        """The lowest density that meets a target of quality, or the highest that meets one of speed.

        Args:
            start: where to look first.
            known: densities that cost nothing any more; with some, the search starts from these.

        Raises:
            Unreachable: if no density does.
        """
        for density in known:
            self._try(density)
        following = self._next() if self.points else start
        for _ in range(ROUNDS):
            if following is None:
                break
            self._try(following)
            following = self._next()
        if not self._meeting and self._easiest not in self.points:
            self._try(self._easiest)
        if not self._meeting:
            best = self.points[self._easiest]
            raise Unreachable(
                f"the target {self.target} cannot be reached here: the best result is {best}", best
            )
        return self.points[min(self._meeting, key=lambda density: abs(density - self._hardest))]

    @property
    def _easiest(self) -> float:
        """The density at which the target is the easiest to meet."""
        return LEAST if self.target.metric == "speedup" else MOST

    @property
    def _hardest(self) -> float:
        return LEAST + MOST - self._easiest

    @property
    def _meeting(self) -> list[float]:
        return [
            density
            for density, point in self.points.items()
            if self.target.met_by(point.cautious(self.target))
        ]

    def _try(self, density: float) -> None:
        found = self.points[density] = self.point_at(density)
        self.lost[density] = self.target.lost(found.cautious(self.target))

    def _next(self) -> float | None:
        """Where to look next; None if the best point cannot be made much better."""
        meeting = self._meeting
        missing = [density for density in self.points if density not in meeting]
        if meeting:
            best = min(meeting, key=lambda density: abs(density - self._hardest))
            if (
                self.target.is_close(self.points[best].cautious(self.target), self.close)
                or best == self._hardest
            ):
                return None
            beyond = [density for density in missing if abs(density - best) < LEAST_STEP]
            if beyond:
                return None
            bounds = best, min(missing, key=lambda density: abs(density - best), default=self._hardest)
        else:
            nearest = min(missing, key=lambda density: abs(density - self._easiest))
            if nearest == self._easiest:
                return None
            bounds = nearest, self._easiest
        return self._between(min(bounds), max(bounds))

    def _between(self, low: float, high: float) -> float | None:
        """Where the target should be, as the logarithm of what is lost is about linear in the density."""
        known = sorted(self.lost, key=lambda density: abs(density - low) + abs(density - high))
        nearest = known[0]
        slope = -SLOPE if self.target.metric != "speedup" else SLOPE / 8
        if len(known) > 1 and self.lost[known[0]] != self.lost[known[1]]:
            measured = math.log(self.lost[known[1]] / self.lost[nearest]) / (known[1] - nearest)
            slope = measured if measured * slope > 0 else slope
        wanted = math.log(self.target.lost(self.target.value) * (1 - self.close / 2) / self.lost[nearest])
        step = min(max(wanted / slope, -LONGEST_STEP), LONGEST_STEP)
        margin = 0.15 * (high - low) if low in self.lost and high in self.lost else 0.0
        density = round(min(max(nearest + step, low + margin, LEAST), high - margin, MOST), 3)
        return None if density in self.points else density
