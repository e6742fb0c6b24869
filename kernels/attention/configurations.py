"""Configurations of the Triton attention kernel: what each GPU tries first, the ladder below it.

Candidates may be faster than what is tried first; each machine times them once.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton

from accel.kernels.launch import Config


def ladder(target: tuple[str, str], rows: int, columns: int, dim: int, itemsize: int) -> list[Config]:
    """What to try in turn, the first that fits, for blocks of `rows` queries by `columns` keys.

    Each rung needs less shared memory than the one above it.
    """
    first = first_choice(target, rows, columns, dim, itemsize)
    rungs = [first]
    if first["num_stages"] > 2:
        rungs.append({**first, "num_stages": 2})
    for tile in (32, 16):
        if tile < rungs[-1]["BLOCK_N"]:
            rungs.append({**rungs[-1], "BLOCK_N": tile})
    last = {**rungs[-1], "num_stages": 1}
    return rungs if rungs[-1] == last else [*rungs, last]


def first_choice(target: tuple[str, str], rows: int, columns: int, dim: int, itemsize: int) -> Config:
    """Queries and keys in a tile, warps and stages.

    128 x 64 tiles were the fastest of the pointer kernels measured on an H200 (bf16, D 64 and 128). The rest
    is chosen so that nothing spills: a block of 128 queries is two tiles at 256 dims, and four in float32,
    which has no tensor cores; dims that are not a power of two need masks, and smaller tiles.
    """
    block_d = triton.next_power_of_2(dim)
    if itemsize == 4:
        return config(min(rows, 32), min(columns, 16), 8, 2)
    tile_rows = min(rows, 128 if block_d <= 128 else 64)
    tile_columns = min(columns, 64 if dim == block_d <= 128 else 32)
    warps = 8 if tile_rows * block_d >= 128 * 64 else 4
    stages = 3 if block_d <= 128 else 2
    back_end, architecture = target
    if back_end == "hip":
        return _on_amd(architecture, tile_rows, tile_columns, block_d, warps, stages)
    if (architecture, dim) == ("80", 128):
        # Three stages spill up to ten registers.
        stages = 4 if columns <= 64 else 2
    if architecture in ("90", "100", "103") and block_d <= 128:
        # A group of four warps multiplies 64 queries at once. Two groups with 64 queries between them share
        # the columns, and each product of the tensor cores is half as wide.
        warps = 4 if tile_rows <= 64 else 8
    elif architecture == "90":
        tile_rows, warps = min(rows, 128), 8
    return config(tile_rows, tile_columns, warps, stages)


def _on_amd(architecture: str, rows: int, columns: int, block_d: int, warps: int, stages: int) -> Config:
    if architecture.startswith("gfx1") and block_d >= 128:
        # Consumer cards have no separate matrix cores: 128 x 64 tiles spill hundreds of registers.
        return config(min(rows, 64), min(columns, 32), 4 if architecture >= "gfx12" else 8, 1)
    if architecture.startswith("gfx12"):
        return config(rows, min(columns, 32), warps, 1)
    if architecture == "gfx950":
        return config(rows, columns, warps, stages)
    # 64 KiB of local memory hold two stages of keys and values, not three. Products of 32 x 32 take registers
    # that these tiles do not have: 4 spill, 40 under an order with a mask.
    small = {"matrix_instr_nonkdim": 16} if (columns, block_d) == (64, 128) else {}
    return {**config(rows, columns, warps, 2), **small}


def candidates(target: tuple[str, str], rows: int, columns: int, dim: int, itemsize: int) -> list[Config]:
    """At most four configurations, of which a machine takes the fastest; the first is `first_choice`.

    docs/kernels.md lists what they were compiled for; no candidate spills there in calls without masks.
    """
    first = first_choice(target, rows, columns, dim, itemsize)
    if itemsize == 4:
        return [first]
    others = _OTHERS.get(target[1].replace("103", "100"), _OTHERS[target[0] or "cuda"]).get(
        triton.next_power_of_2(dim), ()
    )
    return within(rows, columns, [first, *others])


def within(rows: int, columns: int, configs: Sequence[Config]) -> list[Config]:
    """The first four different ones whose tiles are not larger than a block."""
    fit = [c for c in configs if c["BLOCK_M"] <= rows and c["BLOCK_N"] <= columns]
    return [c for i, c in enumerate(fit) if c not in fit[:i]][:4]


def config(rows: int, columns: int, warps: int, stages: int, **more: int) -> Config:
    return {"BLOCK_M": rows, "BLOCK_N": columns, "num_warps": warps, "num_stages": stages, **more}


# What may be faster than the first choice, by architecture and head dim rounded up to a power of two. Other
# architectures of NVIDIA have the candidates of consumer cards.
_OTHERS: dict[str, dict[int, Sequence[Config]]] = {
    "cuda": {
        64: (config(128, 64, 4, 3), config(64, 64, 4, 3), config(128, 32, 4, 3)),
        128: (config(128, 64, 8, 2), config(128, 32, 8, 3), config(64, 64, 4, 2), config(64, 32, 4, 3)),
    },
    "80": {
        64: (config(128, 64, 8, 4), config(64, 64, 4, 3), config(128, 32, 4, 3)),
        128: (config(128, 64, 8, 2), config(128, 32, 8, 3), config(64, 64, 4, 3), config(64, 32, 4, 3)),
    },
    "90": {
        64: (config(128, 128, 8, 3), config(128, 64, 4, 3), config(64, 64, 4, 4), config(64, 32, 4, 3)),
        128: (config(128, 128, 8, 2), config(128, 64, 8, 2), config(64, 64, 4, 2), config(64, 32, 4, 3)),
        256: (config(64, 64, 8, 2), config(64, 32, 8, 2)),
    },
    "100": {
        64: (config(128, 64, 4, 3), config(64, 64, 4, 3), config(128, 32, 4, 3), config(64, 32, 4, 3)),
        128: (config(128, 64, 8, 2), config(64, 64, 4, 2), config(128, 32, 8, 3), config(64, 32, 4, 3)),
        256: (config(128, 32, 8, 2), config(64, 64, 8, 2), config(64, 32, 4, 2)),
    },
    "120": {
        64: (config(128, 64, 8, 2), config(64, 64, 4, 3), config(128, 32, 4, 3)),
        128: (config(128, 64, 8, 2), config(128, 32, 8, 3), config(64, 32, 4, 3)),
    },
    "gfx942": {
        64: (config(128, 64, 4, 2), config(128, 32, 4, 2), config(64, 64, 4, 1)),
        128: tuple(
            config(*tile, matrix_instr_nonkdim=16)
            for tile in ((128, 64, 4, 2), (128, 32, 4, 2), (64, 32, 4, 2))
        ),
    },
    "gfx950": {
        64: (config(128, 64, 4, 2), config(128, 32, 4, 2), config(64, 64, 4, 2)),
        128: (config(128, 64, 8, 2), config(128, 32, 4, 2), config(64, 32, 4, 2)),
    },
    "gfx1201": {
        64: (config(64, 32, 4, 1), config(64, 64, 4, 1)),
        128: (config(128, 32, 8, 1), config(64, 16, 4, 1), config(32, 32, 4, 1)),
    },
    "hip": {},
}
