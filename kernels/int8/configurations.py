"""Configurations of the int8 kernel: the ladder of what fits, and what a machine may find to be faster."""

from __future__ import annotations

from accel.kernels.attention.configurations import config, within
from accel.kernels.launch import Config


def ladder(rows: int, columns: int, by_positions: bool) -> list[Config]:
    """Configurations to try, the first that fits.

    Fewer queries for as many warps, or masks by the positions of keys, leave registers for fewer keys.
    """
    queries, keys, warps = (128, 64, 8) if rows == 128 else (rows, 32, 4)
    if by_positions:
        queries, keys, warps = min(rows, 64), 32, 8 if rows >= 64 else 4
    tiles = ((keys, 3), (keys, 2), (32, 1))
    return [config(queries, min(columns, n), warps, stages) for n, stages in tiles]


def candidates(
    target: tuple[str, str], rows: int, columns: int, head_dim: int, itemsize: int = 2
) -> list[Config]:
    """Configurations of which a machine takes the fastest, the ladder's first one first."""
    others = (config(128, 64, 8, 2), config(128, 32, 8, 3), config(64, 32, 4, 3))
    return within(rows, columns, [ladder(rows, columns, by_positions=False)[0], *others])
