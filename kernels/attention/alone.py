"""Rows alone: one after another, each from reused memory, because every page of new memory is cleared.

In float32 both products are oneDNN's, and every thread has rows of its own. PyTorch's attention would split
64 queries into twice 32, pack the keys again for each half, and on AMD's processors use half of their
vectors' width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from accel.kernels.attention.rows import Rows
from accel.kernels.attention.single_threads import in_parts

LOG2_E = math.log2(math.e)
MOST = 60.0  # powers of two: neither a weight nor a sum of weights within it leaves float32

Attend = Callable[..., tuple[Tensor, Tensor]]
Product = Callable[[Tensor, Tensor], Tensor]


def rows_alone(rows: Rows, keys: Tensor, scale: float, out: Tensor, lse: Tensor, attend: Attend) -> None:
    """Attention of each row to the first `keys` [R] of its list, into `out` [R, rows, D] and `lse` [R, rows].

    Args:
        attend: dense attention of q [1, rows, D] to k and v [1, keys, D], where oneDNN cannot be used.
    """
    product, rest = product_for(rows.q), keys
    if product is not None:
        largest = _largest_logits(rows, keys, scale)
        rest = keys.where(~largest.isfinite(), 0)
        alone = _Products(
            product, rows, rows.q * (scale * LOG2_E), keys - rest, largest > MOST,
            out, torch.ones_like(lse), torch.zeros_like(lse),
        )  # fmt: skip
        in_parts(alone.attend, alone.keys)
        done = alone.keys > 0
        lse[done] = (alone.total.log2() + alone.most)[done] / LOG2_E
    k_room, v_room = _room(rows.k, rows, rest), _room(rows.v, rows, rest)
    for row in rest.nonzero()[:, 0].tolist():
        count = int(rest[row])
        ids = rows.lists[row, : _blocks(rows, count)]
        k, v = (_gather(*each, ids)[None, :count] for each in ((rows.k, k_room), (rows.v, v_room)))
        one = attend(rows.q[row, None], k, v, None, scale)
        out[row], lse[row] = one[0][0], one[1][0]


@dataclass(frozen=True)
class _Products:
    """Rows whose queries and keys are finite.

    Args:
        product: x wᵀ.
        q: [R, rows, D], scaled for powers of two.
        keys: [R]; rows of 0 are left out.
        large: bool [R]; whether the largest logit of a query has to be subtracted.
        out, total, most: [R, rows, D], [R, rows] and [R, rows], where the output, the sum of weights and the
            subtracted logit of each query go.
    """

    product: Product
    rows: Rows
    q: Tensor
    keys: Tensor
    large: Tensor
    out: Tensor
    total: Tensor
    most: Tensor

    def attend(self, part: slice) -> None:
        """The rows of a slice, one after another."""
        rows, keys = self.rows, self.keys[part]
        k_room, v_room = _room(rows.k, rows, keys), _room(rows.v, rows, keys)
        channels, of_head = k_room, -1
        numbers = range(*part.indices(len(self.keys)))
        for row, count, large in zip(numbers, keys.tolist(), self.large[part].tolist(), strict=True):
            if count == 0:
                continue
            ids = rows.lists[row, : _blocks(rows, count)]
            head = row // rows.q_blocks * rows.kv_heads // rows.heads
            if head != of_head:
                channels, of_head = _channels(rows, head), head
            room = v_room[: len(ids)].view(len(channels), len(ids), -1)
            v = torch.index_select(channels, 1, ids - head * channels.shape[1], out=room).flatten(1)
            self._row(row, _gather(rows.k, k_room, ids), v, count, large)

    def _row(self, row: int, k: Tensor, v: Tensor, keys: int, large: bool) -> None:
        """Attention of row `row` to the first `keys` of k [N, D] and v [D, N]."""
        weights = self.product(self.q[row], k)
        if keys < len(k):
            weights[:, keys:] = -torch.inf
        if large:
            weights.sub_(torch.amax(weights, 1, out=self.most[row])[:, None])
        total = torch.sum(weights.exp2_(), 1, out=self.total[row])
        torch.div(self.product(weights, v), total[:, None], out=self.out[row])


def _blocks(rows: Rows, keys: int) -> int:
    return -(-keys // rows.k.shape[1])


def _room(blocks: Tensor, rows: Rows, keys: Tensor) -> Tensor:
    """Memory for the longest of some lists of `blocks` [*, columns, D]."""
    longest = int(keys.max()) if len(keys) else 0
    return blocks.new_empty(_blocks(rows, longest), *blocks.shape[1:])


def _gather(blocks: Tensor, room: Tensor, ids: Tensor) -> Tensor:
    """Blocks `ids` of `blocks` [*, columns, D] after one another, [N, D], in `room`."""
    return torch.index_select(blocks, 0, ids, out=room[: len(ids)]).flatten(0, 1)


def _largest_logits(rows: Rows, keys: Tensor, scale: float) -> Tensor:
    """[R]: the most that a row's logits can be, in powers of two; not finite if a query or key is not."""
    sizes = torch.linalg.vector_norm(rows.k, dim=2).amax(dim=1)
    listed = torch.arange(rows.lists.shape[1]) * rows.k.shape[1] < keys[:, None]
    of_keys = torch.where(listed, sizes[rows.lists.where(listed, 0)], 0).amax(dim=1)
    return torch.linalg.vector_norm(rows.q, dim=2).amax(dim=1) * of_keys * (scale * LOG2_E)


def _channels(rows: Rows, head: int) -> Tensor:
    """The values of key head `head` of B x Hkv by channel, [D, Nb, columns]: a product sums over rows."""
    return rows.v.view(rows.kv_heads, -1, *rows.v.shape[1:])[head].permute(2, 0, 1).contiguous()


def product_for(q: Tensor) -> Product | None:
    """What multiplies queries of this type and device, each row on one thread; None if nothing does."""
    return onednn() if q.dtype == torch.float32 and q.device.type == "cpu" else None


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
