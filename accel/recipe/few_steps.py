"""FewSteps: what changes in a recipe for schedules of a few steps, as distilled models have them.

A step of four is a quarter of the way: blocks chosen in the one before are of no use, unless a residual comes
with them, and one dense step is all that pays.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from accel.noun import noun
from accel.recipe.reuse import Reuse
from accel.recipe.schedule import Schedule

DISTILLED = re.compile(
    r"lightx2v|lightning|turbo|dmd|causvid|distil|hyper-?sd|lcm|\d[-_ ]?steps?(?![a-z])", re.IGNORECASE
)


@noun
class FewSteps:
    """A schedule has few steps if it has at most `most_steps`, and no second pass of guidance or
    an adapter whose name says that it is distilled (lightx2v, lightning, turbo, dmd, causvid, 4steps, ...).

    Then the first step of every expert runs dense and no other, and every step chooses its own blocks, but
    for those that a residual is added to.

    Args:
        most_steps: of a schedule; 0 is never.
    """

    most_steps: Annotated[int, Field(ge=0)] = 8

    def why(self, n_steps: int | None, guided: bool | None, adapters: tuple[str, ...]) -> str | None:
        """Why a schedule is one of few steps, in words; None if it is not.

        Args:
            guided: whether steps have a second pass of guidance; None while nobody knows.
            adapters: the names of those in use.
        """
        if n_steps is None or n_steps > self.most_steps:
            return None
        distilled = [name for name in adapters if DISTILLED.search(name)]
        if distilled:
            return f"{n_steps} steps, adapter {', '.join(distilled)}"
        return None if guided else f"{n_steps} steps, no guidance"

    def schedule(self, schedule: Schedule) -> Schedule:
        return replace(schedule, dense_steps=0.0, dense_every=0.0)

    def reuse(self, reuse: Reuse) -> Reuse:
        return Reuse(branches=reuse.branches)
