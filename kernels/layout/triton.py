# mypy: disallow-untyped-defs=False
"""Layouts in Triton: tokens into another order or back, lists from masks, the order in which rows are run."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import apart, launch, strides, unit_of


@triton.jit(do_not_specialize=["samples_apart", "heads_apart", "heads", "group", "N"])
def move_rows_kernel(
    tokens_ptr, indices_ptr, out_ptr, tokens_strides, samples_apart, heads_apart, heads, group, N,
    BACK: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one head: out[i] = tokens[indices[i]], or out[indices[i]] = tokens[i] on the way BACK."""
    groups = tl.cdiv(N, ROWS)
    head = tl.program_id(0) // groups
    b, h = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
    rows = tl.program_id(0) % groups * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, BLOCK_D)[None, :]
    indices_ptr += (b * samples_apart + h * heads_apart) * N
    there = tl.load(indices_ptr + rows, mask=rows < N, other=0).to(tl.int64)[:, None]
    here = rows[:, None].to(tl.int64)
    inside = (rows < N)[:, None] & (dims < D)
    source, target = (here, there) if BACK else (there, here)
    tokens_ptr += (b * tokens_strides[0] + h // group * tokens_strides[1]) * UNIT
    tokens = tl.load(tokens_ptr + source * tokens_strides[2] * UNIT + dims, mask=inside)
    out_ptr += head.to(tl.int64) * N * D
    tl.store(out_ptr + target * D + dims, tokens, mask=inside)


def move_rows(tokens: Tensor, indices: Tensor, back: bool = False) -> Tensor:
    """`TokenOrder.permute`, or `restore` if `back`: [B, Hkv, N, D] -> contiguous [B, H, N, D].

    Args:
        indices: int64 [N] or [B | 1, H | 1, N]; if it has more heads than `tokens`, a group of them shares
            one of those.
    """
    tokens = tokens if tokens.stride(-1) == 1 else tokens.contiguous()
    indices = indices[None, None] if indices.ndim == 1 else indices
    indices = indices.contiguous()
    batch, kv_heads, length, dim = tokens.shape
    heads = max(kv_heads, indices.shape[1])
    out = tokens.new_empty(batch, heads, length, dim)
    block_d = triton.next_power_of_2(dim)
    rows, unit = triton.next_power_of_2(max(4096 // block_d, 1)), unit_of(tokens)
    launch(
        move_rows_kernel, triton.cdiv(length, rows) * batch * heads,
        tokens, indices, out, strides(tokens, unit), *apart(indices), heads, heads // kv_heads, length,
        BACK=back, D=dim, UNIT=unit, ROWS=rows, BLOCK_D=block_d,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["N"], do_not_specialize_on_alignment=["keep_ptr"])
def compact_kernel(keep_ptr, indices_ptr, counts_ptr, N, BLOCK: tl.constexpr):
    """One row: each column that is kept goes to the place of its rank; zeros behind the last."""
    row = tl.program_id(0).to(tl.int64)
    count = tl.zeros([], tl.int32)
    for start in range(0, N, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        keep = (tl.load(keep_ptr + row * N + columns, mask=columns < N, other=0) != 0).to(tl.int32)
        places = count + tl.cumsum(keep, 0) - 1
        tl.store(indices_ptr + row * N + places, columns, mask=keep > 0)
        count += tl.sum(keep, 0)
    tl.store(counts_ptr + row, count)
    for start in range(0, N, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        zeros = tl.zeros([BLOCK], tl.int32)
        tl.store(indices_ptr + row * N + columns, zeros, mask=(columns >= count) & (columns < N))


def compact_lists(keep: Tensor) -> tuple[Tensor, Tensor]:
    """What `compact_lists.compact_lists` computes."""
    keep = keep.contiguous()
    indices = torch.empty_like(keep, dtype=torch.int32)
    counts = torch.empty(keep.shape[:-1], dtype=torch.int32, device=keep.device)
    block = min(triton.next_power_of_2(keep.shape[-1]), 2048)
    launch(compact_kernel, counts.numel(), keep, indices, counts, keep.shape[-1], BLOCK=block)
    return indices, counts


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["counts_ptr"])
def work_order_kernel(counts_ptr, order_ptr, rows, BLOCK: tl.constexpr):
    """Places of BLOCK rows of one head, against all of its rows."""
    groups = tl.cdiv(rows, BLOCK)
    head = (tl.program_id(0) // groups).to(tl.int64)
    counts_ptr += head * rows
    order_ptr += head * rows
    ours = tl.program_id(0) % groups * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(counts_ptr + ours, mask=ours < rows, other=0)
    place = tl.zeros([BLOCK], tl.int32)
    for start in range(0, rows, BLOCK):
        others = start + tl.arange(0, BLOCK)
        other = tl.load(counts_ptr + others, mask=others < rows, other=-1)
        longer = other[None, :] > count[:, None]
        earlier = (other[None, :] == count[:, None]) & (others[None, :] < ours[:, None])
        place += tl.sum((longer | earlier).to(tl.int32), 1)
    tl.store(order_ptr + place, ours, mask=ours < rows)


def work_order(counts: Tensor) -> Tensor:
    """What `work_order.work_order` computes, without waiting for the device."""
    counts = counts.contiguous()
    order = torch.empty_like(counts)
    rows = counts.shape[2]
    programs = triton.cdiv(rows, 64) * counts.shape[0] * counts.shape[1]
    launch(work_order_kernel, programs, counts, order, rows, BLOCK=64)
    return order
