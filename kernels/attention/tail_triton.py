# mypy: disallow-untyped-defs=False
"""The tail in Triton: adds the mean keys and values of unlisted blocks to an attention already computed."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from accel.kernels.launch import launch_config, strides
from accel.kernels.online_softmax import LOG2_E, finish, load_rows, take_in


@triton.jit
def tail_kernel(
    q_ptr, k_ptr, v_ptr, log_count_ptr, out_ptr, lse_ptr, positions_ptr, q_strides, k_strides, v_strides,
    log_count_strides, out_strides, position_strides, heads, group, M, means, scale,
    D: tl.constexpr, PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One of the PARTS of one block of queries over all means; out and LSE are read, joined, written back."""
    block = tl.program_id(0) // PARTS
    b, h = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    rows, columns = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)[None, :]
    in_rows = rows[:, None] < M
    places = rows.to(tl.int64)
    if positions_ptr is not None:
        positions_ptr += b * position_strides[0] + h * position_strides[1]
        places = tl.load(positions_ptr + rows, mask=rows < M, other=0).to(tl.int64)
    q_ptr += b * q_strides[0] + h * q_strides[1] + places[:, None] * q_strides[2] + dims
    k_ptr += b * k_strides[0] + h // group * k_strides[1] + dims
    v_ptr += b * v_strides[0] + h // group * v_strides[1] + dims
    out_ptr += b * out_strides[0] + h * out_strides[1] + places[:, None] * out_strides[2] + dims
    lse_ptr += (b * heads + h) * M + places
    log_count_ptr += b * log_count_strides[0] + h * log_count_strides[1] + block * log_count_strides[2]

    q = load_rows(q_ptr, in_rows, D, BLOCK_D)
    accumulator = load_rows(out_ptr, in_rows, D, BLOCK_D).to(tl.float32)
    row_max = tl.load(lse_ptr, mask=rows < M, other=float("-inf")) * LOG2_E
    row_sum = tl.where(row_max == float("-inf"), 0.0, 1.0)
    for start in range(0, means, BLOCK_N):
        mean = start + columns
        k = load_rows(k_ptr + mean[:, None] * k_strides[2], mean[:, None] < means, D, BLOCK_D)
        v = load_rows(v_ptr + mean[:, None] * v_strides[2], mean[:, None] < means, D, BLOCK_D)
        log_count = tl.load(log_count_ptr + mean, mask=mean < means, other=float("-inf"))
        scores = tl.dot(q, k.T, input_precision="ieee") * scale + log_count[None, :] * LOG2_E
        accumulator, row_max, row_sum = take_in(scores, v, accumulator, row_max, row_sum, 1.0)

    out, lse = finish(accumulator, row_max, row_sum)
    tl.store(out_ptr, out.to(out_ptr.dtype.element_ty), mask=in_rows & (dims < D))
    tl.store(lse_ptr, lse, mask=rows < M)


def add_tail(
    q: Tensor,
    mean_k: Tensor,
    mean_v: Tensor,
    log_count: Tensor,
    out: Tensor,
    lse: Tensor,
    rows: int,
    scale: float,
    positions: Tensor | None = None,
) -> None:
    """Join attention over mean keys into `out` and `lse`, in place.

    Args:
        q, out: [B, H, M, D]; lse: float32 [B, H, M], contiguous.
        mean_k, mean_v: [B, Hkv, Nb, D].
        log_count: float32 [B | 1, H | 1, Mb, Nb]; -inf where a mean takes no part.
        rows: queries in a block.
        positions: int64 [B | 1, H | 1, M], where the queries of the blocks stand in q, out and lse; none if
            they stand in that order.
    """
    batch, heads, q_len, dim = q.shape
    config = launch_config(rows, 32, dim, q.itemsize)
    parts = rows // config["BLOCK_M"]
    tail_kernel[(log_count.shape[2] * parts, batch * heads)](
        q, mean_k, mean_v, log_count, out, lse, positions,
        *(strides(x) for x in (q, mean_k, mean_v, log_count, out, positions)),
        heads, heads // mean_k.shape[1], q_len, mean_k.shape[2], scale * LOG2_E.value,
        D=dim, BLOCK_D=triton.next_power_of_2(dim), PARTS=parts, **config,
    )  # fmt: skip
