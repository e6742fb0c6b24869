"""Timings: how long tiers and configurations of their kernels take on this machine.

They are kept beside the check results. Kernels only read the file, once per process;
`accel.machine.tier_timing` measures and writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from accel.kernels.check_results import entries, key, results_file

if TYPE_CHECKING:
    from accel.kernels.launch import Config

BLOCKS = ((128, 128), (128, 64), (64, 64))
USUAL_BLOCK = (128, 64)

_TRYING: ContextVar[Config | None] = ContextVar("trying", default=None)


class Call(NamedTuple):
    """What a timing is about, beside the machine.

    Args:
        block: query rows and key rows of a block.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    block: tuple[int, int]

    def key(self, tier: str, config: Config | None = None) -> str:
        """The entry for a tier, at its best or under a configuration."""
        tile = "".join(f" {name}={value}" for name, value in (config or {}).items())
        what = f"{tier} in blocks of {self.block[0]} x {self.block[1]}{tile}"
        return key(what, self.device, self.dtype, self.head_dim)


@cache
def known() -> dict[str, float]:
    """Seconds by `Call.key`, from this process and earlier ones; infinite for what fails or is wrong."""
    return entries(timings_file(), float)


def timings_file() -> Path:
    """Where they are kept; deleting the file has everything timed again."""
    return results_file().with_name("timings.json")


def fastest_first(tiers: Sequence[str], call: Call) -> list[str]:
    """`tiers` by their times, or as they are if one of them has none.

    Blocks of sizes that are not timed go by those of the usual size.
    """
    if len(tiers) == 1 or not known():
        return list(tiers)
    timed = call if call.block in BLOCKS else call._replace(block=USUAL_BLOCK)
    seconds = {tier: known().get(timed.key(tier), math.inf) for tier in tiers}
    return sorted(tiers, key=seconds.__getitem__) if math.inf not in seconds.values() else list(tiers)


def with_fastest_first(
    tier: str, call: Call, candidates: Sequence[Config], ladder: list[Config]
) -> list[Config]:
    """`ladder` with the fastest of a tier's `candidates` above it, where they have been timed."""
    if (only := _TRYING.get()) is not None:
        return [only]
    if not known():
        return ladder
    best = min(candidates, key=lambda config: known().get(call.key(tier, config), math.inf))
    if best == ladder[0] or call.key(tier, best) not in known():
        return ladder
    return [best, *ladder]


@contextmanager
def trying(config: Config | None) -> Iterator[None]:
    """Kernels that have candidates run in this configuration within, or not at all."""
    token = _TRYING.set(config)
    try:
        yield
    finally:
        _TRYING.reset(token)
