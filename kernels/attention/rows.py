"""Rows: an attention problem cut into blocks, one row for each block of queries of one head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.layout.blocks import per_head, positions_by_block
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.restricted import whole_blocks_first
from accel.kernels.layout.visibility import Tags


@dataclass(frozen=True)
class Rows:
    """R = B x H x Mb rows and the blocks of keys they choose from.

    Args:
        q: [R, rows, D]; the last block of a head is padded with zeros.
        k, v: [B x Hkv x Nb, columns, D], the same.
        lists: int64 [R, S]; indices into `k` and `v`, ascending but under a visibility.
        full_blocks: int64 [R]; how many blocks, from the first in the list, all queries of the row see.
        full_keys: int64 [R]; how many keys those have: less than whole blocks where the sequence ends in one.
        partial_blocks: int64 [R]; how many of the next blocks some query of the row sees in part.
        q_positions: int64 [R, rows] and kv_positions: int64 [B x Hkv x Nb, columns], in the sequence.
        kv_ends: int64 [R]; keys at positions from here on are padding.
        last_seen: the layout's, or None: queries see the future.
        window: how many keys up to its own a query sees, or None: all of them.
        tags: of the layout's visibility, or None.
        q_blocks: Mb.
        kv_len: N.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    lists: Tensor
    full_blocks: Tensor
    full_keys: Tensor
    partial_blocks: Tensor
    q_positions: Tensor
    kv_positions: Tensor
    kv_ends: Tensor
    last_seen: Callable[[Tensor], Tensor] | None
    window: int | None
    tags: Tags | None
    q_blocks: int
    kv_len: int

    @property
    def heads(self) -> int:
        """B x H."""
        return len(self.q) // self.q_blocks

    @property
    def kv_heads(self) -> int:
        """B x Hkv."""
        return len(self.k) // -(-self.kv_len // self.k.shape[1])

    @classmethod
    def cut(cls, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> Rows:
        """The rows of q [B, H, M, D] and k, v [B, Hkv, N, D], all in the order the blocks are cut from."""
        batch, heads = q.shape[:2]
        kv_heads, q_blocks, kv_blocks = k.shape[1], layout.num_q_blocks, layout.num_kv_blocks
        rows, columns = layout.block_size
        whole = None
        if layout.visibility is not None:
            layout, whole = whole_blocks_first(layout, heads)
        lists = layout.kv_indices.long().expand(batch, heads, -1, -1)
        counts = layout.kv_num_blocks.long().expand(batch, heads, -1)
        ends = torch.full((batch, 1, 1), layout.kv_len, device=q.device)
        if layout.kv_lengths is not None:
            ends = layout.kv_lengths.long().view(-1, 1, 1).clamp(max=layout.kv_len)
        if whole is None:
            full, keys, partial = _visible(lists, counts, ends, layout)
        else:
            full = whole.long().expand(batch, heads, -1)
            keys, partial = full * columns, counts - full
        kv_head = torch.arange(batch * heads, device=q.device) // (heads // kv_heads)
        q_positions = positions_by_block(layout.q_order, layout.q_len, rows, q.device, 0)
        kv_positions = positions_by_block(layout.kv_order, layout.kv_len, columns, q.device, layout.kv_len)
        return cls(
            q=_blocks(q, rows),
            k=_blocks(k, columns),
            v=_blocks(v, columns),
            lists=lists.reshape(-1, lists.shape[3])
            + (kv_head * kv_blocks).repeat_interleave(q_blocks)[:, None],
            full_blocks=full.flatten(),
            full_keys=keys.flatten(),
            partial_blocks=partial.flatten(),
            q_positions=per_head(q_positions, heads).expand(batch, -1, -1, -1).reshape(-1, rows),
            kv_positions=per_head(kv_positions, kv_heads).expand(batch, -1, -1, -1).reshape(-1, columns),
            kv_ends=ends.expand(batch, heads, q_blocks).flatten(),
            last_seen=layout.last_seen if layout.causal else None,
            window=layout.window,
            tags=None if layout.visibility is None else layout.visibility.tags(q.device),
            q_blocks=q_blocks,
            kv_len=layout.kv_len,
        )

    def gather(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of blocks `ids` [G, S]: [G, S x columns, D] each."""
        k, v = (x.index_select(0, ids.flatten()).view(len(ids), -1, x.shape[-1]) for x in (self.k, self.v))
        return k, v

    def seen(self, chunk: Tensor, ids: Tensor) -> Tensor:
        """Bool [G, rows, S x columns]: which keys of blocks `ids` [G, S] the queries of `chunk` [G] see."""
        keys = self.kv_positions[ids].flatten(1)[:, None]
        seen = keys < self.kv_ends[chunk, None, None]
        if self.tags is not None:
            places = keys.clamp(max=self.kv_len - 1)
            rows = self.q_positions[chunk]
            low, high = self.tags.low[rows][:, :, None], self.tags.high[rows][:, :, None]
            return seen & ((self.tags.first[places] <= high) & (low <= self.tags.last[places])).all(dim=-1)
        if self.last_seen is None:
            return seen.expand(-1, self.q.shape[1], -1)
        last = self.last_seen(self.q_positions[chunk])[..., None]
        seen = seen & (keys <= last)
        return seen if self.window is None else seen & (keys > last - self.window)


def _blocks(tokens: Tensor, rows: int) -> Tensor:
    """[B, H, N, D] -> [B x H x blocks, rows, D]."""
    padded = F.pad(tokens, (0, 0, 0, -tokens.shape[2] % rows)) if tokens.shape[2] % rows else tokens
    return padded.reshape(-1, rows, tokens.shape[3])


def _visible(
    lists: Tensor, counts: Tensor, ends: Tensor, layout: BlockLayout
) -> tuple[Tensor, Tensor, Tensor]:
    """Full blocks, keys in them, and partial blocks of every row, int64 [B, H, Mb] each."""
    rows, columns = layout.block_size
    listed = torch.arange(lists.shape[3], device=lists.device) < counts[..., None]
    nothing = torch.zeros_like(counts)
    ordered = layout.q_order is not None or layout.kv_order is not None
    if layout.window is not None or (ordered and (layout.causal or layout.kv_lengths is not None)):
        return nothing, nothing, counts
    if not layout.causal:
        keys = (ends[..., None] - lists * columns).clamp(0, columns) * listed
        return (keys > 0).sum(-1), keys.sum(-1), nothing
    first_query = torch.arange(0, layout.q_len, rows, device=lists.device)
    last_query = (first_query + rows).clamp(max=layout.q_len) - 1
    seen_by_all, seen_by_any = (
        (layout.last_seen(query) + 1).minimum(ends)[..., None] for query in (first_query, last_query)
    )
    full = (listed & ((lists + 1) * columns <= seen_by_all)).sum(-1)
    reached = (listed & (lists * columns < seen_by_any)).sum(-1)
    return full, full * columns, reached - full
