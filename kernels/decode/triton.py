# mypy: disallow-untyped-defs=False
"""Decoding in Triton: a list of key blocks is split over many programs, whose shares are joined afterwards.

One program computes the rows of one key head over a part of its list, in tiles of several blocks gathered
side by side; a second kernel joins the parts by their log-sum-exp (flash-decoding). Nothing depends on a
length on the host, so a captured graph stays right from token to token.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import apart, launch, strides, unit_of
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.online_softmax import LOG2_E, finish, load_rows, take_in

PROGRAMS_PER_PROCESSOR = 2
PROCESSORS = 132


@triton.jit(
    do_not_specialize=[
        "samples_apart", "heads_apart", "slots", "visible_samples", "visible_queries", "kv_heads", "splits",
        "parts", "R", "M", "N", "slots_per_split", "scale",
    ],
    do_not_specialize_on_alignment=["indices_ptr", "counts_ptr", "visible_ptr"],
)  # fmt: skip
def decode_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, indices_ptr, counts_ptr, visible_ptr, q_strides, k_strides,
    v_strides, samples_apart, heads_apart, slots, visible_samples, visible_queries, kv_heads, splits, parts,
    R, M, N, slots_per_split, scale, CAUSAL: tl.constexpr, SINGLE: tl.constexpr, D: tl.constexpr,
    UNIT: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows of one key head over `slots_per_split` blocks of its list; `scale` has log2(e) in it.

    Strides are (sample, head, row), in UNITs. SINGLE says that M is 1.
    """
    split, head = tl.program_id(0) % splits, tl.program_id(0) // (splits * parts)
    b, h = (head // kv_heads).to(tl.int64), (head % kv_heads).to(tl.int64)
    rows = tl.program_id(0) // splits % parts * BLOCK_M + tl.arange(0, BLOCK_M)
    columns, dims = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)[None, :]
    q_ptr += (b * q_strides[0] + h * q_strides[1] + rows[:, None] * q_strides[2]) * UNIT + dims
    k_ptr += (b * k_strides[0] + h * k_strides[1]) * UNIT + dims
    v_ptr += (b * v_strides[0] + h * v_strides[1]) * UNIT + dims
    list_ptr = indices_ptr + (b * samples_apart + h * heads_apart) * slots
    count = tl.load(counts_ptr + b * samples_apart + h * heads_apart)
    q = load_rows(q_ptr, rows[:, None] < R, D, BLOCK_D)

    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    end = tl.minimum(count, (split + 1) * slots_per_split) * COLUMNS
    for first in range(split * slots_per_split * COLUMNS, end, BLOCK_N):
        places = first + columns
        blocks = tl.load(list_ptr + places // COLUMNS, mask=places < end, other=0).to(tl.int64)
        keys = blocks * COLUMNS + places % COLUMNS
        present = (places < end) & (keys < N)
        seen = present[None, :] & (rows[:, None] < R)
        if CAUSAL:
            seen &= keys[None, :] <= (rows % M)[:, None] + N - M
        if visible_ptr is not None:
            mask_ptr = visible_ptr + b * visible_samples + keys
            if SINGLE:
                seen &= (tl.load(mask_ptr, mask=present, other=0) != 0)[None, :]
            else:
                # In a branch, as Triton 3.6 has no asynchronous copies of single bytes.
                of_row = (rows % M)[:, None] * visible_queries
                seen &= tl.load(mask_ptr[None, :] + of_row, mask=seen, other=0) != 0
        k = load_rows(k_ptr + keys[:, None] * k_strides[2] * UNIT, present[:, None], D, BLOCK_D)
        v = load_rows(v_ptr + keys[:, None] * v_strides[2] * UNIT, present[:, None], D, BLOCK_D)
        scores = tl.where(seen, tl.dot(q, k.T, input_precision="ieee"), float("-inf"))
        accumulator, row_max, row_sum = take_in(scores, v, accumulator, row_max, row_sum, scale)

    out, lse = finish(accumulator, row_max, row_sum)
    place = (head.to(tl.int64) * splits + split) * R + rows
    tl.store(out_ptr + place[:, None] * D + dims, out, mask=(rows[:, None] < R) & (dims < D))
    tl.store(lse_ptr + place, lse, mask=rows < R)


@triton.jit(do_not_specialize=["splits", "R"])
def join_kernel(
    parts_ptr, part_lse_ptr, out_ptr, lse_ptr, splits, R,
    D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One row: the attention over all splits from the attention over each, STEP of them at once."""
    row, head = tl.program_id(0) % R, (tl.program_id(0) // R).to(tl.int64)
    split, dims = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)[None, :]
    parts_ptr += (head * splits * R + row) * D + dims
    part_lse_ptr += head * splits * R + row
    lse = tl.load(part_lse_ptr + split * R, mask=split < splits, other=float("-inf"))
    highest = tl.max(lse, 0)
    safe = tl.where(highest == float("-inf"), 0.0, highest)
    total = tl.sum(tl.exp(lse - safe), 0)
    out = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, splits, STEP):
        part = first + tl.arange(0, STEP)
        inside = (part[:, None] < splits) & (dims < D)
        parts = tl.load(parts_ptr + part[:, None] * R * D, mask=inside, other=0.0)
        part_lse = tl.load(part_lse_ptr + part * R, mask=part < splits, other=float("-inf"))
        out += tl.sum(parts * tl.exp(part_lse - safe)[:, None], 0)
    out /= tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + (head * R + row) * D + tl.arange(0, BLOCK_D), out.to(out_ptr.dtype.element_ty),
             mask=tl.arange(0, BLOCK_D) < D)  # fmt: skip
    tl.store(lse_ptr + head * R + row, tl.where(total == 0.0, float("-inf"), safe + tl.log(total)))


def attend(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, visible: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """What `decode_attention.attend` computes."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    if visible is not None:
        visible = (visible if visible.stride(-1) == 1 else visible.contiguous()).view(torch.uint8)
    batch, kv_heads, rows, dim = q.shape
    columns, capacity = layout.block_size[1], layout.kv_indices.shape[3]
    config = launch_config(rows, dim, q.itemsize)
    block_d = triton.next_power_of_2(dim)
    splits, slots = split_lists(capacity, max(config["BLOCK_N"] // columns, 1), batch * kv_heads, q.device)
    parts = q.new_empty(batch, kv_heads, splits, rows, dim, dtype=torch.float32)
    part_lse = q.new_empty(batch, kv_heads, splits, rows, dtype=torch.float32)
    indices, counts = layout.kv_indices[:, :, 0].contiguous(), layout.kv_num_blocks.contiguous()
    tiles, unit = triton.cdiv(rows, config["BLOCK_M"]), unit_of(q, k, v)
    launch(
        decode_kernel, splits * tiles * batch * kv_heads,
        q, k, v, parts, part_lse, indices, counts, visible, *(strides(x, unit) for x in (q, k, v)),
        *apart(indices), capacity, *visible_strides(visible), kv_heads, splits, tiles, rows, layout.q_len,
        layout.kv_len, slots, scale * LOG2_E.value, CAUSAL=layout.causal, SINGLE=layout.q_len == 1, D=dim,
        UNIT=unit, COLUMNS=columns, BLOCK_D=block_d, **config,
    )  # fmt: skip
    out = q.new_empty(batch, kv_heads, rows, dim)
    lse = q.new_empty(batch, kv_heads, rows, dtype=torch.float32)
    most = triton.next_power_of_2(splits)
    launch(
        join_kernel, rows * batch * kv_heads, parts, part_lse, out, lse, splits, rows,
        D=dim, BLOCK_S=most, BLOCK_D=block_d, STEP=min(most, 16), num_warps=4,
    )  # fmt: skip
    return out, lse


def launch_config(rows: int, dim: int, itemsize: int) -> dict[str, int]:
    """Rows and keys in a tile, warps and stages for `rows` rows of `dim` numbers that read the same keys.

    Nothing spills, and all of it fits the 99 KiB of shared memory that every GPU from sm_80 on has.
    """
    wide, small = dim > 128, itemsize <= 2
    block_m = min(max(triton.next_power_of_2(rows), 16), 64 if small and not wide else 16)
    return {
        "BLOCK_M": block_m,
        "BLOCK_N": (32 if wide or (dim > 64 and block_m == 32) else 64)
        if small
        else (16 if dim > 64 else 32),
        "num_warps": 8 if block_m * dim >= 64 * 64 else 4,
        "num_stages": 3 if small and not wide else 2,
    }


def split_lists(capacity: int, slots_per_tile: int, lists: int, device: torch.device) -> tuple[int, int]:
    """How many programs share one list of `capacity` slots, and the slots of each: whole tiles.

    Enough programs to fill the device, never more than there are tiles.
    """
    tiles = -(-capacity // slots_per_tile)
    processors = PROCESSORS
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = max(1, min(tiles, -(-PROGRAMS_PER_PROCESSOR * processors // lists)))
    slots = -(-tiles // wanted) * slots_per_tile
    return -(-capacity // slots), slots


def visible_strides(visible: Tensor | None) -> tuple[int, int]:
    """Strides of (sample, query), 0 if all samples share one."""
    if visible is None:
        return (0, 0)
    return (visible.stride(0) if visible.shape[0] > 1 else 0, visible.stride(1))
