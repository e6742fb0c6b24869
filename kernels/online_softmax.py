# mypy: disallow-untyped-defs=False
"""The pieces of the Triton kernels that know how attention over a part of the keys adds up."""

from __future__ import annotations

import math

import triton
import triton.language as tl

LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def load_rows(ptr, in_rows, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, BLOCK_D] from `ptr`; zero beyond D, and where `in_rows` [rows, 1], if given, is false."""
    in_dims = tl.arange(0, BLOCK_D)[None, :] < D
    if in_rows is None:
        rows = tl.load(ptr) if D == BLOCK_D else tl.load(ptr, mask=in_dims, other=0.0)
    else:
        rows = tl.load(ptr, mask=in_rows & in_dims, other=0.0)
    return rows


@triton.jit
def take_in(scores, v, accumulator, row_max, row_sum, scale, BY_ROW: tl.constexpr = False,
            HALF_SUMS: tl.constexpr = False):  # fmt: skip
    """Add keys to the running sums: `scores` [BLOCK_M, BLOCK_N], not yet scaled, and v [BLOCK_N, BLOCK_D].

    `scale` is one number or, BY_ROW, [BLOCK_M]. HALF_SUMS adds up these keys in float16, which takes half as
    long on some cards, and only then to what was before.
    """
    new_max = tl.maximum(row_max, tl.max(scores, 1) * scale)
    # A row that has seen nothing yet has the maximum -inf, and -inf - -inf is not a number.
    safe_max = tl.where(new_max == float("-inf"), 0.0, new_max)
    of_rows = scale[:, None] if BY_ROW else scale
    weights = tl.exp2(scores * of_rows - safe_max[:, None])
    correction = tl.exp2(row_max - safe_max)
    row_sum = row_sum * correction + tl.sum(weights, 1)
    accumulator = accumulator * correction[:, None]
    if HALF_SUMS:
        accumulator += tl.dot(weights.to(v.dtype), v, out_dtype=tl.float16).to(tl.float32)
    else:
        accumulator = tl.dot(weights.to(v.dtype), v, accumulator, input_precision="ieee")
    return accumulator, new_max, row_sum


@triton.jit
def finish(accumulator, row_max, row_sum):
    """Out [BLOCK_M, BLOCK_D] and natural LSE [BLOCK_M] from the running sums; 0 and -inf without keys."""
    empty = row_sum == 0.0
    safe_sum = tl.where(empty, 1.0, row_sum)
    lse = tl.where(empty, float("-inf"), (row_max + tl.log2(safe_sum)) / LOG2_E)
    return accumulator / safe_sum[:, None], lse
