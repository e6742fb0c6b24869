# mypy: disallow-untyped-defs=False
"""The Gluon kernel of the FP8 tier: the Hopper kernel's schedule, with both products of e4m3 numbers.

What differs: values come transposed, each box of keys in its own place; a tile's product of weights and
values starts from zero and is added to float32 sums, because the tensor cores keep 14 bits of sums in eight
bits (arXiv 2412.19437); and the weights go from one product to the other in the registers they were made in.
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

from accel.kernels.hopper.tiles import (
    BLOCK_M,
    LN_2,
    ROWS,
    _allocate_barriers,
    _blocks_before,
    _fill,
    _first_key,
    _full_tiles,
    tma_load,
    tma_store,
)

BLOCK_N = gl.constexpr(128)  # keys of one tile
WEIGHT_LOG2 = gl.constexpr(8.0)
SCORES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32]))  # [ROWS, BLOCK_N]
E4M3_OF_FOUR = gl.constexpr(
    """{ .reg .b16 low, high;
    cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;
    cvt.rn.satfinite.e4m3x2.f32 high, $4, $3;
    mov.b32 $0, {low, high}; }"""
)


@gluon.jit
def _fill_values(desc, full, places, first, list_ptr, tile, count, b, kv_h, N):
    """Have one tile of values, boxes [D, KV], copied to `places[first]` and on; `full` counts all of them."""
    KV: gl.constexpr = desc.block_type.shape[3]
    BOXES: gl.constexpr = BLOCK_N // KV
    mbarrier.expect(full, BOXES * desc.block_type.nbytes)
    for box in gl.static_range(BOXES):
        key = _first_key(list_ptr, tile * BOXES + box, count, N, KV)
        tma_load(desc, [b, kv_h, 0, key], full, places.index(first + box))


@gluon.jit
def _produce(q_desc, k_desc, v_desc, smem, barriers, list_ptr, count, tiles, b, h, kv_h, row, N,
             STAGES: gl.constexpr):  # fmt: skip
    """Load the queries, then tile after tile as the consumers free its place."""
    BOXES: gl.constexpr = BLOCK_N // k_desc.block_type.shape[2]
    q_smem, k_smem, v_smem, _ = smem
    q_full, k_full, k_empty, v_full, v_empty = barriers
    for g in gl.static_range(2):
        mbarrier.expect(q_full.index(g), q_desc.block_type.nbytes)
        tma_load(q_desc, [b, h, row + g * ROWS, 0], q_full.index(g), q_smem.index(g))
    for i in range(tiles):
        stage = i % STAGES
        phase = ((i // STAGES) & 1) ^ 1
        mbarrier.wait(k_empty.index(stage), phase)
        _fill(k_desc, k_full.index(stage), k_smem.index(stage), list_ptr, i, count, b, kv_h, N, 1)
        mbarrier.wait(v_empty.index(stage), phase)
        _fill_values(v_desc, v_full.index(stage), v_smem, stage * BOXES, list_ptr, i, count, b, kv_h, N)


@gluon.jit
def _mask(s, i, list_ptr, count, last_seen, N, KV: gl.constexpr, CAUSAL: gl.constexpr):
    """Scores of tile i, -inf for keys behind `last_seen`, a number or, under causality, one a row [ROWS]."""
    columns = gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES))
    # A thread has two columns of every eight. Whole keys of all columns would take 32 registers, and spill.
    column = columns % 8
    eight = columns % KV // 8 * 8
    for box in gl.static_range(BLOCK_N // KV):
        first = _first_key(list_ptr, i * (BLOCK_N // KV) + box, count, N, KV)
        eight += gl.where(columns // KV == box, first, 0)
    if CAUSAL:
        seen = column[None, :] <= last_seen[:, None] - eight[None, :]
    else:
        seen = (column <= last_seen - eight)[None, :]
    return gl.where(seen, s, float("-inf"))


@gluon.jit
def _softmax(s, row_max, scale, MASKED: gl.constexpr):
    """Weights of scores `s` times 256, the new maximum of their rows, and the factor earlier sums take.

    Maxima are rounded up: then factors are powers of two, and weights round alike whatever the maximum was.
    """
    new_max = gl.maximum(row_max, gl.ceil(gl.max(s, 1) * scale))
    safe_max = new_max
    if MASKED:
        # A row that has seen nothing yet has the maximum -inf, and -inf - -inf is not a number.
        safe_max = gl.where(new_max == float("-inf"), 0.0, new_max)
    shift = safe_max - WEIGHT_LOG2
    return gl.exp2(s * scale - shift[:, None]), new_max, gl.exp2(row_max - safe_max)


@gluon.jit
def _pack(p):
    """[ROWS, BLOCK_N] weights -> int32 [ROWS, BLOCK_N / 4]: four e4m3 each, in the thread that has them.

    Of sixteen columns 8 j + 2 t + e, thread t packs its own four; the product takes them for 4 t + 2 j + e,
    and values have changed places accordingly. Bytes carried through the loop would take a register each.
    """
    fours = p.reshape([ROWS, BLOCK_N // 16, 2, 4, 2]).permute((0, 1, 3, 2, 4))
    even, odd = gl.split(fours.reshape([ROWS, BLOCK_N // 4, 2, 2]))
    first, third = gl.split(even)
    second, fourth = gl.split(odd)
    fours = [first, second, third, fourth]
    return gl.inline_asm_elementwise(E4M3_OF_FOUR, "=r,f,f,f,f", fours, dtype=gl.int32, is_pure=True, pack=1)


@gluon.jit
def _unpack(packed, dtype: gl.constexpr):
    """int32 [ROWS, n] -> e4m3 [ROWS, 4 n]; costs no instruction."""
    first, second = packed.to(gl.int8), (packed >> 8).to(gl.int8)
    third, fourth = (packed >> 16).to(gl.int8), (packed >> 24).to(gl.int8)
    fours = gl.join(gl.join(first, third), gl.join(second, fourth))
    return gl.cast(fours.reshape([ROWS, 4 * packed.shape[1]]), dtype, bitcast=True)


@gluon.jit
def _times_values(packed, values, first, sums, D: gl.constexpr, ADD: gl.constexpr):
    """Start the product of packed weights and the boxes of values from `first` on, added to `sums` if ADD."""
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32])
    BOXES: gl.constexpr = 4 * packed.shape[1] // values.shape[2]
    if BOXES == 1:
        weights = gl.convert_layout(_unpack(packed, values.dtype), gl.DotOperandLayout(0, OUT, 4))
        sums = warpgroup_mma(weights, values.index(first).permute((1, 0)), sums, use_acc=ADD, is_async=True)
    else:
        halves = packed.reshape([ROWS, 2, packed.shape[1] // 2]).permute((0, 2, 1))
        left, right = gl.split(halves)
        sums = _times_values(left, values, first, sums, D, ADD)
        sums = _times_values(right, values, first + BOXES // 2, sums, D, True)
    return sums


@gluon.jit
def _consume_tile(i, tiles, q, acc, row_max, row_sum, correction, weights, smem, barriers, masking, scale,
                  D: gl.constexpr, KV: gl.constexpr, CAUSAL: gl.constexpr, MASKED: gl.constexpr,
                  STAGES: gl.constexpr):  # fmt: skip
    """Scores and weights of tile i while the weights of tile i - 1 meet their values.

    `acc` lacks the values of tile i - 1 and has yet to take `correction`: one multiply-add does both.
    """
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32])
    BOXES: gl.constexpr = BLOCK_N // KV
    _, k_smem, v_smem, _ = smem
    _, k_full, k_empty, v_full, v_empty = barriers
    list_ptr, count, last_seen, N = masking
    stage = i % STAGES
    last = (i - 1) % STAGES
    s = gl.zeros([ROWS, BLOCK_N], gl.float32, SCORES)
    s = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), s, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(last), ((i - 1) // STAGES) & 1)
    added = gl.zeros([ROWS, D], gl.float32, OUT)
    added = _times_values(weights, v_smem, last * BOXES, added, D, False)
    s = warpgroup_mma_wait(BOXES, deps=(s,))
    mbarrier.arrive(k_empty.index(stage), count=1)
    if MASKED:
        s = _mask(s, i, list_ptr, count, last_seen, N, KV, CAUSAL)
    p, row_max, next_correction = _softmax(s, row_max, scale, MASKED)
    row_sum = row_sum * next_correction + gl.sum(p, 1)
    # This wait is a basic-block boundary: without it ptxas moves the wait for the values' product above the
    # exponentials, and the overlap is gone.
    mbarrier.wait(k_full.index((i + 1) % STAGES), ((i + 1) // STAGES) & 1, pred=i + 1 < tiles)
    added, weights = warpgroup_mma_wait(0, deps=(added, weights))
    mbarrier.arrive(v_empty.index(last), count=1)
    acc = acc * gl.convert_layout(correction, gl.SliceLayout(1, OUT))[:, None] + added
    return acc, row_max, row_sum, next_correction, _pack(p)


@gluon.jit
def _consume(out_desc, lse_ptr, v_scales_ptr, smem, barriers, list_ptr, count, tiles, full_tiles, end, b, h,
             row, M, N, scale, g: gl.constexpr, D: gl.constexpr, KV: gl.constexpr, CAUSAL: gl.constexpr,
             STAGES: gl.constexpr):  # fmt: skip
    """Attention of 64 queries, out and LSE."""
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32])
    q_smem, k_smem, v_smem, out_smem = smem
    q_full, k_full, k_empty, v_full, _ = barriers
    q = q_smem.index(g)
    rows = row + g * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, SCORES))
    last_seen = gl.minimum(end - 1, rows + N - M) if CAUSAL else end - 1
    masking = (list_ptr, count, last_seen, N)
    acc = gl.zeros([ROWS, D], gl.float32, OUT)
    mbarrier.wait(q_full.index(g), 0)
    mbarrier.wait(k_full.index(0), 0)
    s = gl.zeros([ROWS, BLOCK_N], gl.float32, SCORES)
    s = warpgroup_mma(q, k_smem.index(0).permute((1, 0)), s, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, deps=(s,))
    mbarrier.arrive(k_empty.index(0), count=1)
    s = _mask(s, 0, list_ptr, count, last_seen, N, KV, CAUSAL)
    nothing = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    p, row_max, correction = _softmax(s, nothing, scale, True)
    row_sum = gl.sum(p, 1)
    weights = _pack(p)
    mbarrier.wait(k_full.index(1 % STAGES), (1 // STAGES) & 1, pred=tiles > 1)
    for i in range(1, full_tiles):
        acc, row_max, row_sum, correction, weights = _consume_tile(
            i, tiles, q, acc, row_max, row_sum, correction, weights, smem, barriers, masking, scale,
            D, KV, CAUSAL, False, STAGES)  # fmt: skip
    for i in range(gl.maximum(full_tiles, 1), tiles):
        acc, row_max, row_sum, correction, weights = _consume_tile(
            i, tiles, q, acc, row_max, row_sum, correction, weights, smem, barriers, masking, scale,
            D, KV, CAUSAL, True, STAGES)  # fmt: skip
    last = (tiles - 1) % STAGES
    mbarrier.wait(v_full.index(last), ((tiles - 1) // STAGES) & 1)
    added = gl.zeros([ROWS, D], gl.float32, OUT)
    added = _times_values(weights, v_smem, last * (BLOCK_N // KV), added, D, False)
    added = warpgroup_mma_wait(0, deps=(added,))
    acc = acc * gl.convert_layout(correction, gl.SliceLayout(1, OUT))[:, None] + added

    empty = row_sum == 0.0
    row_sum = gl.where(empty, 1.0, row_sum)
    lse = gl.where(empty, float("-inf"), (row_max + gl.log2(row_sum) - WEIGHT_LOG2) * LN_2)
    gl.store(lse_ptr + rows, lse, mask=rows < M)
    v_scales = gl.load(v_scales_ptr + gl.arange(0, D, gl.SliceLayout(0, OUT)))
    acc = acc / gl.convert_layout(row_sum, gl.SliceLayout(1, OUT))[:, None] * v_scales[None, :]
    out = out_smem.index(g)
    out.store(acc.to(out.dtype))
    fence_async_shared()
    tma_store(out_desc, [b, h, row + g * ROWS, 0], out)
    tma.store_wait(0)


@gluon.jit
def _allocate(q_desc, k_desc, v_desc, out_desc, STAGES: gl.constexpr):
    """Shared memory of the queries, of tiles of keys and boxes of values, and of the output."""
    dtype: gl.constexpr = q_desc.dtype
    D: gl.constexpr = v_desc.block_type.shape[2]
    KV: gl.constexpr = v_desc.block_type.shape[3]
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    k_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_N, D], dtype)
    v_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([D, KV], dtype)
    out_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], out_desc.dtype)
    q_smem = gl.allocate_shared_memory(dtype, [2, ROWS, D], q_layout)
    k_smem = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, D], k_layout)
    v_smem = gl.allocate_shared_memory(dtype, [STAGES * (BLOCK_N // KV), D, KV], v_layout)
    out_smem = gl.allocate_shared_memory(out_desc.dtype, [2, ROWS, D], out_layout)
    return q_smem, k_smem, v_smem, out_smem


@gluon.jit(
    do_not_specialize=[
        "samples_apart", "heads_apart", "slots", "heads", "group", "blocks", "M", "N", "scale",
    ],
    do_not_specialize_on_alignment=["indices_ptr", "counts_ptr", "lengths_ptr", "work_ptr"],
)  # fmt: skip
def hopper_fp8_kernel(q_desc, k_desc, v_desc, out_desc, lse_ptr, q_scales_ptr, k_scales_ptr, v_scales_ptr,
                      indices_ptr, counts_ptr, lengths_ptr, work_ptr, samples_apart, heads_apart, slots,
                      heads, group, blocks, M, N, scale, D: gl.constexpr, CAUSAL: gl.constexpr,
                      STAGES: gl.constexpr):  # fmt: skip
    """One block of 128 queries of one head: the one that `work_ptr`, if given, has in this place."""
    KV: gl.constexpr = k_desc.block_type.shape[2]
    head, block = gl.program_id(0) // blocks, gl.program_id(0) % blocks
    b, h = head // heads, head % heads
    first_list = (b.to(gl.int64) * samples_apart + h * heads_apart) * blocks
    if work_ptr is not None:
        block = gl.load(work_ptr + first_list + block)
    row = block * BLOCK_M
    list_ptr = indices_ptr + (first_list + block) * slots
    lse_ptr += head.to(gl.int64) * M
    count = gl.load(counts_ptr + first_list + block)
    end = N
    if lengths_ptr is not None:
        end = gl.minimum(N, gl.load(lengths_ptr + b))
    last_seen = gl.minimum(end, gl.minimum(row + BLOCK_M, M) + N - M) if CAUSAL else end
    count = _blocks_before(list_ptr, count, gl.cdiv(gl.maximum(last_seen, 0), KV))
    seen_by_all = gl.minimum(end, row + N - M + 1) if CAUSAL else end
    full_tiles = _full_tiles(list_ptr, count, seen_by_all, KV)
    # An empty list is one tile of keys that do not exist.
    tiles = gl.maximum(gl.cdiv(count * KV, BLOCK_N), 1)
    scale *= gl.load(q_scales_ptr + head * blocks + block) * gl.load(k_scales_ptr + head // group)
    v_scales_ptr += head // group * D

    smem = _allocate(q_desc, k_desc, v_desc, out_desc, STAGES)
    barriers = _allocate_barriers(STAGES)
    gl.warp_specialize([
        (_consume, (out_desc, lse_ptr, v_scales_ptr, smem, barriers, list_ptr, count, tiles, full_tiles, end,
                    b, h, row, M, N, scale, 0, D, KV, CAUSAL, STAGES)),
        (_consume, (out_desc, lse_ptr, v_scales_ptr, smem, barriers, list_ptr, count, tiles, full_tiles, end,
                    b, h, row, M, N, scale, 1, D, KV, CAUSAL, STAGES)),
        (_produce, (q_desc, k_desc, v_desc, smem, barriers, list_ptr, count, tiles, b, h, h // group, row,
                    N, STAGES)),
    ], [4, 1], [240, 24])  # fmt: skip
