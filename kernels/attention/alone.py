"""Rows alone: one after another, each from reused memory, because every page of new memory is cleared.

In float32, on one thread, both products are oneDNN's. PyTorch's attention would split 64 queries into twice
32, pack the keys again for each half, and on AMD's processors use half of their vectors' width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from accel.kernels.attention.rows import Rows

LOG2_E = math.log2(math.e)
MOST = 60.0  # powers of two: neither a weight nor a sum of weights within it leaves float32

Attend = Callable[..., tuple[Tensor, Tensor]]
Product = Callable[[Tensor, Tensor], Tensor]


def rows_alone(rows: Rows, keys: Tensor, scale: float, out: Tensor, lse: Tensor, attend: Attend) -> None:
    """Attention of each row to the first `keys` [R] of its list, into `out` [R, rows, D] and `lse` [R, rows].

    Args:
        attend: dense attention of q [1, rows, D] to k and v [1, keys, D], where oneDNN cannot be used.
    """
    columns = rows.k.shape[1]
    blocks = -(-keys // columns)
    # With more threads, lists of many lengths took longer than in PyTorch's attention (docs/kernels.md).
    product = onednn() if rows.q.dtype == torch.float32 and torch.get_num_threads() == 1 else None
    largest = _largest_logits(rows, blocks, scale) if product else torch.full(keys.shape, torch.inf)
    k_room, v_room = (x.new_empty(int(blocks.max()), *x.shape[1:]) for x in (rows.k, rows.v))
    sums, most = torch.ones_like(lse), torch.zeros_like(lse)
    each = (rows.lists, rows.q * (scale * LOG2_E) if product else rows.q, out, sums)
    sizes = zip(keys.tolist(), blocks.tolist(), largest.tolist(), *(x.unbind() for x in each), strict=True)
    channels, of_head = k_room, -1
    for row, (count, number, bound, ids, q, place, total) in enumerate(sizes):
        if count == 0:
            continue
        ids = ids[:number]
        k = torch.index_select(rows.k, 0, ids, out=k_room[:number]).flatten(0, 1)
        if product is None or not bound < math.inf:
            v = torch.index_select(rows.v, 0, ids, out=v_room[:number]).flatten(0, 1)
            one = attend(rows.q[row, None], k[None, :count], v[None, :count], None, scale)
            out[row], lse[row] = one[0][0], one[1][0]
            continue
        head = row // rows.q_blocks * rows.kv_heads // rows.heads
        if head != of_head:
            channels, of_head = _channels(rows, head), head
        room = v_room[:number].view(channels.shape[0], number, columns)
        v = torch.index_select(channels, 1, ids - head * channels.shape[1], out=room).flatten(1)
        _attend(product, q, k, v, count, most[row] if bound > MOST else None, total, place)
    if product is None:
        return
    by_products = (keys > 0) & largest.isfinite()
    lse[by_products] = (sums.log2() + most)[by_products] / LOG2_E


def _attend(
    product: Product,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: int,
    most: Tensor | None,
    total: Tensor,
    out: Tensor,
) -> None:
    """Attention of q [rows, D], scaled, to the first `keys` of k [N, D] and v [D, N].

    Args:
        most: [rows], where the largest logits go if they have to be subtracted; None if they do not.
        total, out: where sums of weights [rows] and the output [rows, D] go.
    """
    weights = product(q, k)
    if keys < len(k):
        weights[:, keys:] = -torch.inf
    if most is not None:
        weights.sub_(torch.amax(weights, 1, out=most)[:, None])
    torch.sum(weights.exp2_(), 1, out=total)
    torch.div(product(weights, v), total[:, None], out=out)


def _largest_logits(rows: Rows, blocks: Tensor, scale: float) -> Tensor:
    """[R]: the most that a row's logits can be, in powers of two; not finite if a query or key is not."""
    sizes = torch.linalg.vector_norm(rows.k, dim=2).amax(dim=1)
    listed = torch.arange(rows.lists.shape[1]) < blocks[:, None]
    of_keys = torch.where(listed, sizes[rows.lists.where(listed, 0)], 0).amax(dim=1)
    return torch.linalg.vector_norm(rows.q, dim=2).amax(dim=1) * of_keys * (scale * LOG2_E)


def _channels(rows: Rows, head: int) -> Tensor:
    """The values of key head `head` of B x Hkv by channel, [D, Nb, columns]: a product sums over rows."""
    return rows.v.view(rows.kv_heads, -1, *rows.v.shape[1:])[head].permute(2, 0, 1).contiguous()


@cache
def onednn() -> Product | None:
    """x wᵀ of float32 matrices by oneDNN, as compiled models compute it; None if PyTorch has none."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return None
    linear = torch.ops.mkldnn._linear_pointwise

    def product(x: Tensor, w: Tensor) -> Tensor:
        # Rows that are not dense fall into a loop that is a thousand times slower.
        found: Tensor = linear(x.contiguous(), w.contiguous(), None, "none", [], "")
        return found

    try:
        # Its schema is PyTorch's own affair.
        product(torch.eye(2), torch.eye(2))
    except RuntimeError:
        return None
    return product
