# mypy: disallow-untyped-defs=False
"""Tokens into another order or back, in Triton: whole rows at once, from any strides, one pass."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import strides


@triton.jit
def move_rows_kernel(
    tokens_ptr, indices_ptr, out_ptr, tokens_strides, indices_strides, heads, group, N,
    BACK: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one head: out[i] = tokens[indices[i]], or out[indices[i]] = tokens[i] on the way BACK."""
    b, h = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    rows, dims = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)[None, :]
    indices_ptr += b * indices_strides[0] + h * indices_strides[1]
    there = tl.load(indices_ptr + rows, mask=rows < N, other=0).to(tl.int64)[:, None]
    here = rows[:, None].to(tl.int64)
    inside = (rows < N)[:, None] & (dims < D)
    source, target = (here, there) if BACK else (there, here)
    tokens_ptr += b * tokens_strides[0] + h // group * tokens_strides[1]
    tokens = tl.load(tokens_ptr + source * tokens_strides[2] + dims, mask=inside)
    out_ptr += tl.program_id(1).to(tl.int64) * N * D
    tl.store(out_ptr + target * D + dims, tokens, mask=inside)


def move_rows(tokens: Tensor, indices: Tensor, back: bool = False) -> Tensor:
    """`TokenOrder.permute`, or `restore` if `back`: [B, Hkv, N, D] -> contiguous [B, H, N, D].

    Args:
        indices: int64 [N] or [B | 1, H | 1, N]; if it has more heads than `tokens`, a group of them shares
            one of those.
    """
    tokens = tokens if tokens.stride(-1) == 1 else tokens.contiguous()
    indices = indices.reshape(-1, 1, indices.shape[-1]) if indices.ndim == 1 else indices.contiguous()
    batch, kv_heads, length, dim = tokens.shape
    heads = max(kv_heads, indices.shape[1])
    out = tokens.new_empty(batch, heads, length, dim)
    block_d = triton.next_power_of_2(dim)
    rows = max(4096 // block_d, 1)
    move_rows_kernel[(triton.cdiv(length, rows), batch * heads)](
        tokens, indices, out, strides(tokens), strides(indices[..., None])[:2], heads, heads // kv_heads,
        length, BACK=back, D=dim, ROWS=triton.next_power_of_2(rows), BLOCK_D=block_d,
    )  # fmt: skip
    return out
