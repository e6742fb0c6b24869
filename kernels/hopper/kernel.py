# mypy: disallow-untyped-defs=False
"""The Gluon kernel of the Hopper tier: a producer warp and two consumer warp groups for 128 queries.

The producer walks the row's list and fills tiles of keys and values by TMA, in boxes of a block or less.
Each consumer holds 64 queries; its product of queries and keys of tile i overlaps the product of weights and
values of tile i - 1 (arXiv 2407.08608). Lists ascend, so only the first tile, which may be the only one, and
the last ones are masked; under an order with causality or padding, and under a window, every tile is, by the
positions of its tokens in the sequence. What a list leaves of its last tile is filled with absent keys, what
a head dim leaves of its box with zeros.
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
    _full_tiles,
    _keys_of_tile,
    _mask,
    _product,
    tma_load,
    tma_store,
)


@gluon.jit
def _produce(q, k_desc, v_desc, smem, barriers, list_ptr, count, tiles, b, h, kv_h, row, N,
             PARTS: gl.constexpr, Q_IN_ORDER: gl.constexpr):  # fmt: skip
    """Load the queries, unless the consumers do, then tile after tile as the consumers free its place."""
    q_smem, k_smem, v_smem = smem
    q_full, k_full, k_empty, v_full, v_empty = barriers
    STAGES: gl.constexpr = k_smem.shape[0]
    if Q_IN_ORDER:
        for g in gl.static_range(2):
            mbarrier.expect(q_full.index(g), q.block_type.nbytes)
            tma_load(q, [b, h, row + g * ROWS, 0], q_full.index(g), q_smem.index(g))
    for i in range(tiles):
        stage = i % STAGES
        phase = ((i // STAGES) & 1) ^ 1
        mbarrier.wait(k_empty.index(stage), phase)
        _fill(k_desc, k_full.index(stage), k_smem.index(stage), list_ptr, i, count, b, kv_h, N, PARTS)
        mbarrier.wait(v_empty.index(stage), phase)
        _fill(v_desc, v_full.index(stage), v_smem.index(stage), list_ptr, i, count, b, kv_h, N, PARTS)


@gluon.jit
def _softmax(s, row_max, scale, MASKED: gl.constexpr):
    """Weights of scores `s`, the new maximum of their rows, and the factor that earlier sums take."""
    new_max = gl.maximum(row_max, gl.max(s, 1) * scale)
    safe_max = new_max
    if MASKED:
        # A row that has seen nothing yet has the maximum -inf, and -inf - -inf is not a number.
        safe_max = gl.where(new_max == float("-inf"), 0.0, new_max)
    return gl.exp2(s * scale - safe_max[:, None]), new_max, gl.exp2(row_max - safe_max)


@gluon.jit
def _operand(weights, v_smem):
    """Weights as the left operand of their product with values.

    Rounded two by two: where they are rounded one by one, ptxas swaps the halves of each pair.
    """
    PAIR: gl.constexpr = "bf16x2" if v_smem.dtype == gl.bfloat16 else "f16x2"
    ROUND: gl.constexpr = "cvt.rn." + PAIR + ".f32 $0, $2, $1;"
    pairs = gl.inline_asm_elementwise(ROUND, "=r,r,r", [weights], dtype=v_smem.dtype, is_pure=True, pack=2)
    return gl.convert_layout(pairs, gl.DotOperandLayout(0, _product(v_smem.shape[2]), 2))


@gluon.jit
def _consume_tile(i, tiles, q, acc, row_max, row_sum, weights, smem, barriers, listed, limits, scale,
                  BOX: gl.constexpr, PARTS: gl.constexpr, MASKED: gl.constexpr):  # fmt: skip
    """Scores and weights of tile i while the weights of tile i - 1 meet their values."""
    _, k_smem, v_smem = smem
    _, k_full, k_empty, v_full, v_empty = barriers
    STAGES: gl.constexpr = k_smem.shape[0]
    TILE: gl.constexpr = k_smem.shape[1]
    WIDTH: gl.constexpr = k_smem.shape[2]
    stage = i % STAGES
    last = (i - 1) % STAGES
    zero = gl.zeros([ROWS, TILE], gl.float32, _product(TILE))
    s = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(last), ((i - 1) // STAGES) & 1)
    acc = warpgroup_mma(weights, v_smem.index(last), acc, is_async=True)
    if MASKED:
        keys = _keys_of_tile(i, listed, BOX, PARTS, TILE)
    s = warpgroup_mma_wait(1, deps=(s,))
    mbarrier.arrive(k_empty.index(stage), count=1)
    if MASKED:
        s = _mask(s, keys, limits, listed[3] is not None)
    p, row_max, correction = _softmax(s, row_max, scale, MASKED)
    row_sum = row_sum * correction + gl.sum(p, 1)
    # This wait is a basic-block boundary: without it ptxas moves the wait for the values' product above the
    # exponentials, and the overlap is gone.
    mbarrier.wait(k_full.index((i + 1) % STAGES), ((i + 1) // STAGES) & 1, pred=i + 1 < tiles)
    acc, weights = warpgroup_mma_wait(0, deps=(acc, weights))
    mbarrier.arrive(v_empty.index(last), count=1)
    acc = acc * gl.convert_layout(correction, gl.SliceLayout(1, _product(WIDTH)))[:, None]
    return acc, row_max, row_sum, _operand(p, v_smem)


@gluon.constexpr_function
def _lines(columns):
    """Rows of `columns` in registers as they lie in memory, 16 bytes a thread."""
    return gl.BlockedLayout([1, 8], [256 // columns, columns // 8], [4, 1], [1, 0])


@gluon.jit
def _rows_in_sequence(ptr, stride, positions_ptr, row, M, D: gl.constexpr, WIDTH: gl.constexpr):
    """Pointers [ROWS, WIDTH] to rows `row` and on, each at its place in the sequence, and which exist."""
    rows = row + gl.arange(0, ROWS, gl.SliceLayout(1, _lines(WIDTH)))
    columns = gl.arange(0, WIDTH, gl.SliceLayout(0, _lines(WIDTH)))
    places = gl.load(positions_ptr + rows, mask=rows < M, other=0)
    exist = (rows < M)[:, None] & (columns < D)[None, :]
    return ptr + places.to(gl.int64)[:, None] * stride + columns[None, :], exist


@gluon.jit
def _consume(queries, lse_ptr, smem, barriers, listed, tiles, full_tiles, end, b, h, row, M, scale, window,
             g: gl.constexpr, D: gl.constexpr, BOX: gl.constexpr, PARTS: gl.constexpr,
             CAUSAL: gl.constexpr):  # fmt: skip
    """Attention of the 64 queries from `row` on, out and LSE."""
    q_from, q_stride, out_to, out_stride, q_positions_ptr = queries
    q_smem, k_smem, v_smem = smem
    q_full, k_full, k_empty, v_full, _ = barriers
    _, _, N, _ = listed
    STAGES: gl.constexpr = k_smem.shape[0]
    TILE: gl.constexpr = k_smem.shape[1]
    WIDTH: gl.constexpr = k_smem.shape[2]
    q = q_smem.index(g)
    rows = row + gl.arange(0, ROWS, gl.SliceLayout(1, _product(TILE)))
    places = rows
    if q_positions_ptr is None:
        mbarrier.wait(q_full.index(g), 0)
    else:
        places = gl.load(q_positions_ptr + rows, mask=rows < M, other=0)
        pointers, exist = _rows_in_sequence(q_from, q_stride, q_positions_ptr, row, M, D, WIDTH)
        q.store(gl.load(pointers, mask=exist, other=0.0))
        fence_async_shared()
    last_seen = end - 1
    if CAUSAL:
        last_seen = gl.minimum(places + N - M, last_seen)[:, None]
    last_hidden = last_seen
    if window is not None:
        last_hidden = (places + N - M - window)[:, None]
    limits = (last_seen, last_hidden, window)
    acc = gl.zeros([ROWS, WIDTH], gl.float32, _product(WIDTH))
    zero = gl.zeros([ROWS, TILE], gl.float32, _product(TILE))
    mbarrier.wait(k_full.index(0), 0)
    s = warpgroup_mma(q, k_smem.index(0).permute((1, 0)), zero, use_acc=False, is_async=True)
    keys = _keys_of_tile(0, listed, BOX, PARTS, TILE)
    s = warpgroup_mma_wait(0, deps=(s,))
    mbarrier.arrive(k_empty.index(0), count=1)
    nothing = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, _product(TILE)))
    s = _mask(s, keys, limits, listed[3] is not None)
    p, row_max, _ = _softmax(s, nothing, scale, True)
    row_sum = gl.sum(p, 1)
    weights = _operand(p, v_smem)
    mbarrier.wait(k_full.index(1 % STAGES), (1 // STAGES) & 1, pred=tiles > 1)
    for i in range(1, full_tiles):
        acc, row_max, row_sum, weights = _consume_tile(
            i, tiles, q, acc, row_max, row_sum, weights, smem, barriers, listed, limits, scale,
            BOX, PARTS, False)  # fmt: skip
    for i in range(gl.maximum(full_tiles, 1), tiles):
        acc, row_max, row_sum, weights = _consume_tile(
            i, tiles, q, acc, row_max, row_sum, weights, smem, barriers, listed, limits, scale,
            BOX, PARTS, True)  # fmt: skip
    last = (tiles - 1) % STAGES
    mbarrier.wait(v_full.index(last), ((tiles - 1) // STAGES) & 1)
    acc = warpgroup_mma(weights, v_smem.index(last), acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=(acc,))

    # Places are computed again, from a row that hides it: kept through the loops they would spill.
    row = gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [row], dtype=gl.int32, is_pure=False, pack=1)
    rows = row + gl.arange(0, ROWS, gl.SliceLayout(1, _product(TILE)))
    places = rows if q_positions_ptr is None else gl.load(q_positions_ptr + rows, mask=rows < M, other=0)
    empty = row_sum == 0.0
    row_sum = gl.where(empty, 1.0, row_sum)
    lse = gl.where(empty, float("-inf"), (row_max + gl.log2(row_sum)) * LN_2)
    gl.store(lse_ptr + places, lse, mask=rows < M)
    acc = acc / gl.convert_layout(row_sum, gl.SliceLayout(1, _product(WIDTH)))[:, None]
    q.store(acc.to(q.dtype))
    if q_positions_ptr is None:
        fence_async_shared()
        tma_store(out_to, [b, h, row, 0], q)
        tma.store_wait(0)
    else:
        pointers, exist = _rows_in_sequence(out_to, out_stride, q_positions_ptr, row, M, D, WIDTH)
        gl.store(pointers, q.load(_lines(WIDTH)), mask=exist)


@gluon.jit(
    do_not_specialize=[
        "samples_apart", "heads_apart", "slots", "q_samples", "q_heads", "kv_samples", "kv_heads",
        "heads", "group", "blocks", "M", "N", "scale", "window",
    ],
    do_not_specialize_on_alignment=["indices_ptr", "counts_ptr", "lengths_ptr", "work_ptr"],
)  # fmt: skip
def hopper_kernel(q, k_desc, v_desc, out, lse_ptr, indices_ptr, counts_ptr, lengths_ptr, work_ptr,
                  q_positions_ptr, kv_positions_ptr, q_strides, out_strides, samples_apart, heads_apart,
                  slots, q_samples, q_heads, kv_samples, kv_heads, heads, group, blocks, M, N, scale, window,
                  D: gl.constexpr, PARTS: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr,
                  CAUSAL: gl.constexpr):  # fmt: skip
    """One block of 128 queries of one head: the one that `work_ptr`, if given, has in this place.

    `q` and `out` are descriptors; with `q_positions_ptr` they are pointers, and rows move one by one. Lists,
    and positions of queries and of keys, are so many heads apart.
    """
    BOX: gl.constexpr = k_desc.block_type.shape[2]
    WIDTH: gl.constexpr = k_desc.block_type.shape[3]
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
    if q_positions_ptr is not None:
        q += b.to(gl.int64) * q_strides[0] + h.to(gl.int64) * q_strides[1]
        out += b.to(gl.int64) * out_strides[0] + h.to(gl.int64) * out_strides[1]
        q_positions_ptr += (b.to(gl.int64) * q_samples + h * q_heads) * M
    if kv_positions_ptr is not None:
        # A box of N follows the positions of each head.
        kv_positions_ptr += (b.to(gl.int64) * kv_samples + h // group * kv_heads) * (N + BOX)
    else:
        last_seen = gl.minimum(end, gl.minimum(row + BLOCK_M, M) + N - M) if CAUSAL else end
        count = _blocks_before(list_ptr, count, gl.cdiv(gl.maximum(last_seen, 0), BOX * PARTS))
    count *= PARTS
    if window is not None or kv_positions_ptr is not None or (CAUSAL and q_positions_ptr is not None):
        full_tiles = 0
    else:
        seen_by_all = gl.minimum(end, row + N - M + 1) if CAUSAL else end
        full_tiles = _full_tiles(list_ptr, count, seen_by_all, BOX, PARTS, TILE)
    # An empty list is one tile of keys that do not exist.
    tiles = gl.maximum(gl.cdiv(count * BOX, TILE), 1)

    dtype: gl.constexpr = k_desc.dtype
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, WIDTH], dtype)
    kv_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TILE, WIDTH], dtype)
    q_smem = gl.allocate_shared_memory(dtype, [2, ROWS, WIDTH], q_layout)
    k_smem = gl.allocate_shared_memory(dtype, [STAGES, TILE, WIDTH], kv_layout)
    v_smem = gl.allocate_shared_memory(dtype, [STAGES, TILE, WIDTH], kv_layout)
    smem = (q_smem, k_smem, v_smem)
    barriers = _allocate_barriers(STAGES)
    queries = (q, q_strides[2], out, out_strides[2], q_positions_ptr)
    listed = (list_ptr, count, N, kv_positions_ptr)
    # A tile of eight boxes takes the producer more than the 24 registers that do for one of four.
    PRODUCER_REGISTERS: gl.constexpr = 40 if TILE // BOX >= 4 else 24
    CONSUMER_REGISTERS: gl.constexpr = 232 if TILE // BOX >= 4 else 240
    gl.warp_specialize([
        (_consume, (queries, lse_ptr, smem, barriers, listed, tiles, full_tiles, end, b, h, row,
                    M, scale, window, 0, D, BOX, PARTS, CAUSAL)),
        (_consume, (queries, lse_ptr, smem, barriers, listed, tiles, full_tiles, end, b, h, row + ROWS,
                    M, scale, window, 1, D, BOX, PARTS, CAUSAL)),
        (_produce, (q, k_desc, v_desc, smem, barriers, list_ptr, count, tiles, b, h, h // group, row,
                    N, PARTS, q_positions_ptr is None)),
    ], [4, 1], [CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
