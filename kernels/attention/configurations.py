"""Configurations of the Triton attention kernel: what each GPU tries first, and the ladder below it."""

from __future__ import annotations

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
    if architecture == "90":
        # A group of four warps multiplies 64 queries at once. Two groups with 64 queries between them share
        # the columns, and each product of the tensor cores is half as wide.
        tile_rows = min(rows, 128)
        warps = 4 if tile_rows <= 64 and block_d <= 128 else 8
    return config(tile_rows, tile_columns, warps, stages)


def _on_amd(architecture: str, rows: int, columns: int, block_d: int, warps: int, stages: int) -> Config:
    if architecture.startswith("gfx1") and block_d >= 128:
        # Consumer cards have no separate matrix cores: 128 x 64 tiles spill hundreds of registers.
        return config(min(rows, 64), min(columns, 32), 4 if architecture >= "gfx12" else 8, 1)
    if architecture == "gfx950":
        return config(rows, columns, warps, stages)
    # 64 KiB of local memory hold two stages of keys and values, not three. Products of 32 x 32 take registers
    # that these tiles do not have: 4 spill, 40 under an order with a mask.
    small = {"matrix_instr_nonkdim": 16} if (columns, block_d) == (64, 128) else {}
    return {**config(rows, columns, warps, 2), **small}


def config(rows: int, columns: int, warps: int, stages: int) -> Config:
    return {"BLOCK_M": rows, "BLOCK_N": columns, "num_warps": warps, "num_stages": stages}
