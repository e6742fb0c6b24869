# mypy: disallow-untyped-defs=False
"""The Gluon kernel of the Hopper tier: a producer warp and two consumer warp groups for 128 queries.

The producer walks the row's list and fills tiles of 128 keys and values by TMA, several blocks a tile if they
are smaller. Each consumer holds 64 queries; its product of queries and keys of tile i overlaps the product of
weights and values of tile i - 1 (arXiv 2407.08608). Lists ascend, so only the first tile, which may be the
only one, and the last ones are masked. What a list leaves of its last tile is filled with absent keys.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

# Triton 3.6 has these under other names.
tma_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
tma_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

BLOCK_M = gl.constexpr(128)  # queries of one program
ROWS = gl.constexpr(64)  # queries of one consumer
BLOCK_N = gl.constexpr(128)  # keys of one tile
LN_2 = gl.constexpr(0.6931471805599453)
SCORES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16]))  # [ROWS, BLOCK_N]


@gluon.jit
def _first_key(list_ptr, entry, count, N, KV: gl.constexpr):
    """Where the block of a list entry begins; N, where TMA reads zeros, for entries behind the last one."""
    block = gl.load(list_ptr + entry, mask=entry < count, other=0)
    return gl.where(entry < count, block * KV, N)


@gluon.jit
def _fill(desc, full, place, list_ptr, tile, count, b, kv_h, N):
    """Have one tile of keys or values, box by box, copied to `place`; `full` is told when all are there."""
    KV: gl.constexpr = desc.block_type.shape[2]
    BOXES: gl.constexpr = BLOCK_N // KV
    mbarrier.expect(full, BOXES * desc.block_type.nbytes)
    for box in gl.static_range(BOXES):
        key = _first_key(list_ptr, tile * BOXES + box, count, N, KV)
        tma_load(desc, [b, kv_h, key, 0], full, place.slice(box * KV, KV, dim=0))


@gluon.jit
def _produce(q_desc, k_desc, v_desc, smem, barriers, list_ptr, count, tiles, b, h, kv_h, row, N,
             STAGES: gl.constexpr):  # fmt: skip
    """Load the queries, then tile after tile as the consumers free its place."""
    q_smem, k_smem, v_smem = smem
    q_full, k_full, k_empty, v_full, v_empty = barriers
    for g in gl.static_range(2):
        mbarrier.expect(q_full.index(g), q_desc.block_type.nbytes)
        tma_load(q_desc, [b, h, row + g * ROWS, 0], q_full.index(g), q_smem.index(g))
    for i in range(tiles):
        stage = i % STAGES
        phase = ((i // STAGES) & 1) ^ 1
        mbarrier.wait(k_empty.index(stage), phase)
        _fill(k_desc, k_full.index(stage), k_smem.index(stage), list_ptr, i, count, b, kv_h, N)
        mbarrier.wait(v_empty.index(stage), phase)
        _fill(v_desc, v_full.index(stage), v_smem.index(stage), list_ptr, i, count, b, kv_h, N)


@gluon.jit
def _mask(s, i, list_ptr, count, end, last_seen, N, KV: gl.constexpr, CAUSAL: gl.constexpr):
    """Scores of tile i, -inf for keys at or behind `end` and, under causality, behind `last_seen` [ROWS]."""
    columns = gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES))
    keys = _first_key(list_ptr, i * (BLOCK_N // KV) + columns // KV, count, N, KV) + columns % KV
    s = gl.where((keys < end)[None, :], s, float("-inf"))
    if CAUSAL:
        s = gl.where(keys[None, :] <= last_seen[:, None], s, float("-inf"))
    return s


@gluon.jit
def _softmax(s, row_max, scale, MASKED: gl.constexpr):
    """Weights of scores `s`, the new maximum of their rows, and the factor that earlier sums take."""
    new_max = gl.maximum(row_max, gl.max(s, 1) * scale)
    safe_max = new_max
    if MASKED:
        # A row that has seen nothing yet has the maximum -inf, and -inf - -inf is no number.
        safe_max = gl.where(new_max == float("-inf"), 0.0, new_max)
    return gl.exp2(s * scale - safe_max[:, None]), new_max, gl.exp2(row_max - safe_max)


@gluon.jit
def _consume_tile(i, tiles, q, acc, row_max, row_sum, weights, smem, barriers, masking, scale,
                  D: gl.constexpr, KV: gl.constexpr, CAUSAL: gl.constexpr, MASKED: gl.constexpr,
                  STAGES: gl.constexpr):  # fmt: skip
    """Scores and weights of tile i while the weights of tile i - 1 meet their values."""
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    _, k_smem, v_smem = smem
    _, k_full, k_empty, v_full, v_empty = barriers
    list_ptr, count, end, last_seen, N = masking
    stage = i % STAGES
    last = (i - 1) % STAGES
    zero = gl.zeros([ROWS, BLOCK_N], gl.float32, SCORES)
    s = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(last), ((i - 1) // STAGES) & 1)
    acc = warpgroup_mma(weights, v_smem.index(last), acc, is_async=True)
    s = warpgroup_mma_wait(1, deps=(s,))
    mbarrier.arrive(k_empty.index(stage), count=1)
    if MASKED:
        s = _mask(s, i, list_ptr, count, end, last_seen, N, KV, CAUSAL)
    p, row_max, correction = _softmax(s, row_max, scale, MASKED)
    row_sum = row_sum * correction + gl.sum(p, 1)
    # This wait is a basic-block boundary: without it ptxas moves the wait for the values' product above the
    # exponentials, and the overlap is gone.
    mbarrier.wait(k_full.index((i + 1) % STAGES), ((i + 1) // STAGES) & 1, pred=i + 1 < tiles)
    acc, weights = warpgroup_mma_wait(0, deps=(acc, weights))
    mbarrier.arrive(v_empty.index(last), count=1)
    acc = acc * gl.convert_layout(correction, gl.SliceLayout(1, OUT))[:, None]
    weights = gl.convert_layout(p.to(k_smem.dtype), gl.DotOperandLayout(0, OUT, 2))
    return acc, row_max, row_sum, weights


@gluon.jit
def _consume(out_desc, lse_ptr, smem, barriers, list_ptr, count, tiles, full_tiles, end, b, h, row, M, N,
             scale, g: gl.constexpr, D: gl.constexpr, KV: gl.constexpr, CAUSAL: gl.constexpr,
             STAGES: gl.constexpr):  # fmt: skip
    """Attention of 64 queries, out and LSE."""
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    q_smem, k_smem, v_smem = smem
    q_full, k_full, k_empty, v_full, _ = barriers
    q = q_smem.index(g)
    rows = row + g * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, SCORES))
    masking = (list_ptr, count, end, rows + N - M, N)
    acc = gl.zeros([ROWS, D], gl.float32, OUT)
    zero = gl.zeros([ROWS, BLOCK_N], gl.float32, SCORES)
    mbarrier.wait(q_full.index(g), 0)
    mbarrier.wait(k_full.index(0), 0)
    s = warpgroup_mma(q, k_smem.index(0).permute((1, 0)), zero, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, deps=(s,))
    mbarrier.arrive(k_empty.index(0), count=1)
    s = _mask(s, 0, list_ptr, count, end, rows + N - M, N, KV, CAUSAL)
    nothing = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    p, row_max, _ = _softmax(s, nothing, scale, True)
    row_sum = gl.sum(p, 1)
    weights = gl.convert_layout(p.to(k_smem.dtype), gl.DotOperandLayout(0, OUT, 2))
    mbarrier.wait(k_full.index(1 % STAGES), (1 // STAGES) & 1, pred=tiles > 1)
    for i in range(1, full_tiles):
        acc, row_max, row_sum, weights = _consume_tile(
            i, tiles, q, acc, row_max, row_sum, weights, smem, barriers, masking, scale,
            D, KV, CAUSAL, False, STAGES)  # fmt: skip
    for i in range(gl.maximum(full_tiles, 1), tiles):
        acc, row_max, row_sum, weights = _consume_tile(
            i, tiles, q, acc, row_max, row_sum, weights, smem, barriers, masking, scale,
            D, KV, CAUSAL, True, STAGES)  # fmt: skip
    last = (tiles - 1) % STAGES
    mbarrier.wait(v_full.index(last), ((tiles - 1) // STAGES) & 1)
    acc = warpgroup_mma(weights, v_smem.index(last), acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=(acc,))

    empty = row_sum == 0.0
    row_sum = gl.where(empty, 1.0, row_sum)
    lse = gl.where(empty, float("-inf"), (row_max + gl.log2(row_sum)) * LN_2)
    gl.store(lse_ptr + rows, lse, mask=rows < M)
    acc = acc / gl.convert_layout(row_sum, gl.SliceLayout(1, OUT))[:, None]
    q.store(acc.to(q.dtype))
    fence_async_shared()
    tma_store(out_desc, [b, h, row + g * ROWS, 0], q)
    tma.store_wait(0)


@gluon.jit
def _full_tiles(list_ptr, count, end, KV: gl.constexpr):
    """How many tiles of ascending entries have only keys before `end`."""
    full = count
    while (full > 0) & ((gl.load(list_ptr + full - 1, mask=full > 0, other=0) + 1) * KV > end):
        full -= 1
    return full // (BLOCK_N // KV)


@gluon.jit
def _allocate_barriers(STAGES: gl.constexpr):
    """Barriers of the queries, and for keys and for values: a tile has come, a tile's place is free."""
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for g in gl.static_range(2):
        mbarrier.init(q_full.index(g), count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=2)
        mbarrier.init(v_empty.index(stage), count=2)
    fence_async_shared()
    return q_full, k_full, k_empty, v_full, v_empty


@gluon.jit
def hopper_kernel(q_desc, k_desc, v_desc, out_desc, lse_ptr, indices_ptr, counts_ptr, lengths_ptr, work_ptr,
                  indices_strides, counts_strides, work_strides, heads, group, M, N, scale,
                  D: gl.constexpr, CAUSAL: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """One block of 128 queries of one head: the one that `work_ptr`, if given, has in this place."""
    KV: gl.constexpr = k_desc.block_type.shape[2]
    b, h = gl.program_id(1) // heads, gl.program_id(1) % heads
    block = gl.program_id(0)
    if work_ptr is not None:
        block = gl.load(work_ptr + b * work_strides[0] + h * work_strides[1] + block)
    row = block * BLOCK_M
    list_ptr = indices_ptr + b.to(gl.int64) * indices_strides[0] + h.to(gl.int64) * indices_strides[1]
    list_ptr += block.to(gl.int64) * indices_strides[2]
    lse_ptr += gl.program_id(1).to(gl.int64) * M
    count = gl.load(counts_ptr + b * counts_strides[0] + h * counts_strides[1] + block * counts_strides[2])
    end = N
    if lengths_ptr is not None:
        end = gl.minimum(N, gl.load(lengths_ptr + b))
    seen_by_all = gl.minimum(end, row + N - M + 1) if CAUSAL else end
    full_tiles = _full_tiles(list_ptr, count, seen_by_all, KV)
    # An empty list is one tile of keys that do not exist.
    tiles = gl.maximum(gl.cdiv(count * KV, BLOCK_N), 1)

    dtype: gl.constexpr = q_desc.dtype
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    kv_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_N, D], dtype)
    q_smem = gl.allocate_shared_memory(dtype, [2, ROWS, D], q_layout)
    k_smem = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, D], kv_layout)
    v_smem = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, D], kv_layout)
    smem = (q_smem, k_smem, v_smem)
    barriers = _allocate_barriers(STAGES)
    # A tile of eight boxes takes the producer more than the 24 registers that do for one of four.
    PRODUCER_REGISTERS: gl.constexpr = 40 if KV == 16 else 24
    CONSUMER_REGISTERS: gl.constexpr = 232 if KV == 16 else 240
    gl.warp_specialize([
        (_consume, (out_desc, lse_ptr, smem, barriers, list_ptr, count, tiles, full_tiles, end, b, h, row,
                    M, N, scale, 0, D, KV, CAUSAL, STAGES)),
        (_consume, (out_desc, lse_ptr, smem, barriers, list_ptr, count, tiles, full_tiles, end, b, h, row,
                    M, N, scale, 1, D, KV, CAUSAL, STAGES)),
        (_produce, (q_desc, k_desc, v_desc, smem, barriers, list_ptr, count, tiles, b, h, h // group, row,
                    N, STAGES)),
    ], [4, 1], [CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
