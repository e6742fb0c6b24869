"""Parts of a schedule, by the shares of it at which they end."""

from __future__ import annotations

from collections.abc import Sequence


def check_ends(until: Sequence[float]) -> None:
    """Refuse ends that do not make parts of a whole schedule.

    Raises:
        ValueError: if they do not ascend, or the last is not 1.
    """
    if list(until) != sorted(set(until)) or not until or until[0] <= 0 or until[-1] != 1:
        raise ValueError(f"until must ascend from above 0 and end at 1, got {list(until)}")


def part_at(until: Sequence[float], progress: float) -> int:
    """Which part `progress`, in [0, 1], lies in; each end belongs to the next part, 1 to the last."""
    return next(part for part, end in enumerate(until) if progress < end or end == 1)
