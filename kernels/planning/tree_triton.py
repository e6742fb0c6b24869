# mypy: disallow-untyped-defs=False
"""HiP's tree search (arXiv 2406.09827) in Triton: scores of blocks in tiles, then a row's tree in registers.

To find a quarter of the blocks, the search asks for as many scores as there are blocks. So the first kernel
multiplies all representatives, which shares what it loads among many rows, and the second descends the tree
with these scores: all nodes of a level are there, and flags say which are left.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import launch, strides, unit_of
from accel.kernels.online_softmax import load_rows
from accel.kernels.planning.heaviest_triton import NEVER, nth_largest, ordered, with_first
from accel.kernels.planning.mass_triton import CHUNK_BYTES, MOST_DIMS, launch_config

MOST_NODES = 8192  # of a row's last level, in the registers of one program
MOST_TIMES = 16  # as many scores as the search asks for; gathering one in PyTorch moves 1.8 KB for each key
MOST_BYTES = 1 << 16  # of a key block's representatives


@triton.jit(
    do_not_specialize=["heads", "group", "first", "R", "C"], do_not_specialize_on_alignment=["counts_ptr"]
)
def block_scores_kernel(
    q_ptr, k_ptr, counts_ptr, scores_ptr, q_strides, k_strides, heads, group, first, R, C, D: tl.constexpr,
    UNIT: tl.constexpr, ROWS: tl.constexpr, PER: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The largest product of a block's ROWS queries with a block's PER keys, for BLOCK_M // ROWS blocks.

    With counts, no row of blocks asks for one beyond `first` and its count, and those are not written.
    """
    groups = tl.cdiv(R, BLOCK_M)
    head, q_blocks = (tl.program_id(0) // groups).to(tl.int64), R // ROWS
    rows = tl.program_id(0) % groups * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    q_block = tl.program_id(0) % groups * (BLOCK_M // ROWS) + tl.arange(0, BLOCK_M // ROWS)[:, None]
    columns, dims = tl.arange(0, BLOCKS * PER)[:, None], tl.arange(0, BLOCK_D)[None, :]
    q_ptr += (head // heads * q_strides[0] + head % heads * q_strides[1] + rows * q_strides[2]) * UNIT
    k_ptr += (head // heads * k_strides[0] + head % heads // group * k_strides[1]) * UNIT
    q = load_rows(q_ptr + dims, rows < R, D, BLOCK_D)
    blocks = C // PER
    end = blocks
    if counts_ptr is not None:
        end = first + tl.max(tl.load(counts_ptr + q_block, mask=q_block < q_blocks, other=0)).to(tl.int32)
    scores_ptr += (head * q_blocks + q_block) * blocks
    for start in range(0, end, BLOCKS):
        keys = start * PER + columns
        k = load_rows(k_ptr + keys.to(tl.int64) * k_strides[2] * UNIT + dims, keys < C, D, BLOCK_D)
        products = tl.dot(q, k.T, input_precision="ieee")
        cells = tl.reshape(products, [BLOCK_M // ROWS, ROWS, BLOCKS, PER])
        block = start + tl.arange(0, BLOCKS)[None, :]
        inside = (q_block < q_blocks) & (block < blocks)
        tl.store(scores_ptr + block, tl.max(tl.max(cells, 3), 1), mask=inside)


@triton.jit
def _ranges(node, level, count, budget):
    """Where on a row's list of candidates the nodes of a level begin, and how long they are."""
    group = node >> level
    start = count * group // budget
    size = count * (group + 1) // budget - start
    for depth in range(level):
        half, goes_right = size // 2, (node >> (level - 1 - depth)) & 1
        start += half * goes_right
        size = tl.where(goes_right == 1, size - half, half)
    return start, size


@triton.jit
def _blocks_at(table_ptr, place, first, inside):
    """The key blocks at these places of a row's list of candidates."""
    if table_ptr is None:
        block = (first + place).to(tl.int64)
    else:
        block = tl.load(table_ptr + place, mask=inside, other=0)
    return block


@triton.jit
def _node_keys(scores_ptr, table_ptr, node, level, alive, count, budget, first: tl.constexpr):
    """The scores of the nodes of a level as keys, which order as they do; NEVER for what is not alive."""
    start, size = _ranges(node, level, count, budget)
    alive = alive & (size > 0)
    block = _blocks_at(table_ptr, start + size // 2, first, alive)
    return tl.where(alive, ordered(tl.load(scores_ptr + block, mask=alive, other=0.0)), NEVER)


@triton.jit(
    do_not_specialize=["first", "first_row", "chunk_rows", "rows", "blocks", "budget"],
    do_not_specialize_on_alignment=["table_ptr", "counts_ptr"],
)
def tree_kernel(
    scores_ptr, table_ptr, counts_ptr, found_ptr, first, first_row, chunk_rows, rows, blocks, budget,
    LEVELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """The `budget` blocks that one row finds, ascending; then the number of all, where it finds fewer."""
    head, row = tl.program_id(0) // chunk_rows, first_row + tl.program_id(0) % chunk_rows
    scores_ptr += tl.program_id(0).to(tl.int64) * blocks
    found_ptr += (head.to(tl.int64) * rows + row) * budget
    if table_ptr is not None:
        table_ptr += row.to(tl.int64) * blocks
    count = tl.load(counts_ptr + row).to(tl.int32)
    group = tl.arange(0, GROUPS)
    kept = (group < budget).to(tl.int32)
    for level in tl.static_range(1, LEVELS + 1):
        kept = tl.ravel(tl.join(kept, kept))
        node = tl.arange(0, GROUPS << level)
        keys = _node_keys(scores_ptr, table_ptr, node, level, kept > 0, count, budget, first)
        fit = tl.minimum(tl.sum((keys > NEVER).to(tl.int32), 0), budget)
        last = nth_largest(keys, fit)
        above, equal = keys > last, (keys > NEVER) & (keys == last)
        for up in range(1, level):
            left = fit - tl.sum(above.to(tl.int32), 0)
            # Of equal nodes the first are those whose parents have the higher scores.
            if tl.sum(equal.to(tl.int32), 0) > left:
                theirs = _node_keys(
                    scores_ptr, table_ptr, node >> up, level - up, equal, count, budget, first
                )  # fmt: skip
                last = nth_largest(theirs, left)
                above = above | (equal & (theirs > last))
                equal = equal & (theirs == last)
        kept = with_first(above, equal, fit).to(tl.int32)
    start, size = _ranges(tl.arange(0, GROUPS << LEVELS), LEVELS, count, budget)
    is_found = (kept > 0) & (size > 0)
    found = is_found.to(tl.int32)
    block = _blocks_at(table_ptr, start, first, is_found)
    tl.store(found_ptr + tl.cumsum(found, 0) - 1, block, mask=is_found)
    missing = (group >= tl.sum(found, 0)) & (group < budget)
    tl.store(found_ptr + group, tl.zeros([GROUPS], tl.int64) + blocks, mask=missing)


def find_in_tree(
    queries: Tensor,
    keys: Tensor,
    per_block: tuple[int, int],
    table: Tensor | None,
    first: int,
    counts: Tensor,
    budget: int,
    levels: int,
) -> Tensor:
    """Int64 [B, H, Mb, budget]: the key blocks found for each block of queries, ascending; Nb fills a row.

    Args:
        queries: [B, H, Mb · per block, D], representatives of queries; keys: [B, Hkv, Nb · per block, D].
        per_block: how many queries and keys represent a block, powers of two.
        table: int64 [Mb, Nb], contiguous, each row's candidates; None where they are a run from `first` on.
        counts: int64 [Mb], how many candidates a row has.
        levels: how often groups are halved until all are single blocks.
    """
    batch, heads, count = queries.shape[:3]
    rows, blocks = count // per_block[0], keys.shape[2] // per_block[1]
    found = counts.new_empty(batch, heads, rows, budget)
    groups = triton.next_power_of_2(budget)
    warps = min(max((groups << levels) // 256, 1), 16)
    at_once = max(1, CHUNK_BYTES // (4 * batch * heads * blocks))
    for first_row in range(0, rows, at_once):
        chunk = queries[:, :, first_row * per_block[0] : (first_row + at_once) * per_block[0]]
        in_chunk = chunk.shape[2] // per_block[0]
        scores = chunk.new_empty(batch, heads, in_chunk, blocks, dtype=torch.float32)
        if levels:
            # Candidates on a table may be anywhere in a row.
            ends = counts[first_row:] if table is None else None
            _write_scores(chunk, keys, per_block, first, ends, scores)
        launch(
            tree_kernel, batch * heads * in_chunk, scores, table, counts, found, first, first_row, in_chunk,
            rows, blocks, budget, LEVELS=levels, GROUPS=groups,
            num_warps=warps,
        )  # fmt: skip
    return found


def _write_scores(
    queries: Tensor,
    keys: Tensor,
    per_block: tuple[int, int],
    first: int,
    counts: Tensor | None,
    scores: Tensor,
) -> None:
    batch, heads, count, dim = queries.shape
    config, unit = launch_config(per_block[1], dim, queries.itemsize), unit_of(queries, keys)
    launch(
        block_scores_kernel, triton.cdiv(count, config["BLOCK_M"]) * batch * heads, queries, keys, counts,
        scores, strides(queries, unit), strides(keys, unit), heads, heads // keys.shape[1], first, count,
        keys.shape[2], D=dim, UNIT=unit, ROWS=per_block[0], PER=per_block[1], **config,
    )  # fmt: skip


def takes(q: Tensor, per_block: tuple[int, int], blocks: int, budget: int, levels: int) -> bool:
    """Whether the kernels can search for the queries [B, H, M, D], and are the way to do it."""
    dim = q.shape[3]
    if dim > MOST_DIMS or q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return False
    config = launch_config(per_block[1], dim, q.itemsize)
    fits = per_block[1] * config["BLOCK_D"] * q.itemsize <= MOST_BYTES and per_block[0] <= config["BLOCK_M"]
    in_registers = triton.next_power_of_2(budget) << levels <= MOST_NODES
    return fits and in_registers and (not levels or blocks <= MOST_TIMES * 2 * budget * levels)
