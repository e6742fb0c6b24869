"""Call: one attention call of a generation, as what is kept between calls sees it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from accel.patches.context import Context


@dataclass(frozen=True)
class Call:
    """What is kept for one call may serve another of the same key.

    Args:
        context: of the call.
        key: whatever else its blocks depend on.
        kept: what its generation keeps.
        number: which of the forward's calls to the site; some models make one for each sample.
    """

    context: Context
    key: Hashable
    kept: dict[Hashable, Any]
    number: int = 0
