"""BlockLayout: which key blocks each query block attends to; the one type between methods and kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from accel.kernels.layout.blocks import blocks_of_tokens, causal_blocks, per_head
from accel.kernels.layout.boxes import Boxes
from accel.kernels.layout.compact_lists import compact_lists
from accel.kernels.layout.order import TokenOrder
from accel.kernels.layout.visibility import Visibility, block_bounds

QUERY_ROWS = (16, 32, 64, 128)
KEY_ROWS = (16, 32, 64, 128)


@dataclass(frozen=True)
class BlockLayout:
    """Ascending lists of key blocks, one list for each block of queries.

    B batch, H query heads, M query tokens, N key tokens, Mb = ceil(M / query rows), Nb = ceil(N / key rows),
    S the longest list the tensor has room for. B or H may be 1: the lists are then shared.

    Args:
        kv_indices: int32 [B | 1, H | 1, Mb, S]; the first `kv_num_blocks` entries of a row are its key
            blocks, ascending; what follows them is never read.
        kv_num_blocks: int32 [B | 1, H | 1, Mb]. A row of zero blocks gives an output of 0 and an LSE of -inf.
        block_size: (query rows, key rows) of one block.
        q_len: M. The last query block may be partial.
        kv_len: N. Keys at and beyond N do not exist: the last block is masked, never padded.
        causal: query i sees key j iff position(j) <= position(i) + N - M.
        kv_lengths: int32 [B] or None; keys at positions from `kv_lengths[b]` on are padding of sample b.
        q_order, kv_order: the order of tokens the blocks are cut from; None is the order of the sequence.
            A `kv_order` per head has H or Hkv heads. Positions in `causal` and `kv_lengths` are always those
            of the sequence.
        tail: True adds the mean key and value of every block that is not listed to the softmax, weighted by
            the number of its tokens that are not padding (arXiv 2602.01077, order 0). Under `causal` only
            blocks entirely in the past of every query of the query block take part. A block that must
            not be approximated, such as one with text in it, is a block to list.
        window: under `causal`, query i sees key j only if position(j) > position(i) + N - M - window; None
            where it sees the whole past.
        visibility: which queries see which keys, in place of `causal`; None where that says it, or all see
            all. With a tail, only blocks that every query of the query block sees whole take part in it.

    Raises:
        ValueError: if shapes, types or sizes contradict each other.
    """

    kv_indices: Tensor
    kv_num_blocks: Tensor
    block_size: tuple[int, int]
    q_len: int
    kv_len: int
    causal: bool = False
    kv_lengths: Tensor | None = None
    q_order: TokenOrder | None = None
    kv_order: TokenOrder | None = None
    tail: bool = False
    window: int | None = None
    visibility: Visibility | Boxes | None = None

    def __post_init__(self) -> None:
        rows, columns = self.block_size
        if rows not in QUERY_ROWS or columns not in KEY_ROWS:
            raise ValueError(
                f"block_size must be (one of {QUERY_ROWS}, one of {KEY_ROWS}), got {self.block_size}"
            )
        if self.q_len < 1 or self.kv_len < 1:
            raise ValueError(f"q_len and kv_len must be at least 1, got {self.q_len} and {self.kv_len}")
        if self.kv_indices.dtype != torch.int32 or self.kv_num_blocks.dtype != torch.int32:
            raise ValueError(
                "kv_indices and kv_num_blocks must be int32, got "
                f"{self.kv_indices.dtype} and {self.kv_num_blocks.dtype}"
            )
        if self.kv_indices.ndim != 4 or self.kv_indices.shape[:3] != self.kv_num_blocks.shape:
            raise ValueError(
                "kv_indices must be [B, H, Mb, S] and kv_num_blocks [B, H, Mb], got "
                f"{tuple(self.kv_indices.shape)} and {tuple(self.kv_num_blocks.shape)}"
            )
        if self.kv_indices.shape[2] != self.num_q_blocks:
            raise ValueError(
                f"{self.q_len} queries in blocks of {rows} are {self.num_q_blocks} blocks, "
                f"got lists for {self.kv_indices.shape[2]}"
            )
        if self.kv_lengths is not None and (
            self.kv_lengths.dtype != torch.int32 or self.kv_lengths.ndim != 1
        ):
            raise ValueError(
                f"kv_lengths must be int32 [B], got {self.kv_lengths.dtype} {tuple(self.kv_lengths.shape)}"
            )
        if self.window is not None and (self.window < 1 or not self.causal or self.tail):
            raise ValueError(
                f"a window is of at least 1 token, causal and without a tail, got window={self.window}, "
                f"causal={self.causal}, tail={self.tail}"
            )
        if self.visibility is not None:
            if self.causal:
                raise ValueError("visibility takes the place of causality, got both")
            if self.tail and isinstance(self.visibility, Boxes):
                raise ValueError("a tail would bring back what boxes leave out, got both")
            lengths = self.visibility.q_len, self.visibility.kv_len
            if lengths != (self.q_len, self.kv_len):
                raise ValueError(f"visibility is of {lengths} tokens, not of {self.q_len, self.kv_len}")
        if self.kv_lengths is not None:
            # Kernels find a sample's length by its number, also in a tensor that was expanded.
            object.__setattr__(self, "kv_lengths", self.kv_lengths.contiguous())
        for name, order, length in (
            ("q_order", self.q_order, self.q_len),
            ("kv_order", self.kv_order, self.kv_len),
        ):
            if order is not None and order.length != length:
                raise ValueError(f"{name} permutes {order.length} tokens, expected {length}")

    @classmethod
    def from_mask(
        cls, keep: Tensor, block_size: tuple[int, int], q_len: int, kv_len: int, **rest: Any
    ) -> BlockLayout:
        """The layout that keeps the blocks set in `keep`, bool [B | 1, H | 1, Mb, Nb]. No host sync.

        Under `causal` without an order, blocks wholly in the future of their queries are left out, and under
        a visibility those that nobody sees.
        """
        blocks = math.ceil(kv_len / block_size[1])
        if keep.ndim != 4 or keep.shape[3] != blocks:
            raise ValueError(f"keep must be [B, H, Mb, Nb] with Nb = {blocks}, got {tuple(keep.shape)}")
        if rest.get("causal") and not (rest.get("q_order") or rest.get("kv_order")):
            keep = keep & causal_blocks(block_size, q_len, kv_len, keep.device)
        if visibility := rest.get("visibility"):
            orders = rest.get("q_order"), rest.get("kv_order")
            seen = block_bounds(visibility, block_size, keep.device, *orders).seen_by_some
            heads = max(keep.shape[1], seen.shape[1])
            keep = per_head(keep, heads) & per_head(seen, heads)
        return cls(*compact_lists(keep), block_size, q_len, kv_len, **rest)

    @classmethod
    def full(
        cls,
        q_len: int,
        kv_len: int,
        block_size: tuple[int, int] = (128, 128),
        device: torch.device | str | None = None,
        **rest: Any,
    ) -> BlockLayout:
        """Every block: the layout under which sparse attention is dense attention."""
        blocks = (1, 1, math.ceil(q_len / block_size[0]), math.ceil(kv_len / block_size[1]))
        keep = torch.ones(blocks, dtype=torch.bool, device=device)
        return cls.from_mask(keep, block_size, q_len, kv_len, **rest)

    @property
    def num_q_blocks(self) -> int:
        return math.ceil(self.q_len / self.block_size[0])

    @property
    def num_kv_blocks(self) -> int:
        return math.ceil(self.kv_len / self.block_size[1])

    @property
    def listed(self) -> Tensor:
        """Bool [B | 1, H | 1, Mb, Nb]: the blocks that are listed."""
        keep = torch.zeros(
            *self.kv_num_blocks.shape, self.num_kv_blocks + 1, dtype=torch.bool, device=self.device
        )
        slots = torch.arange(self.kv_indices.shape[3], device=self.device, dtype=torch.int32)
        valid = slots < self.kv_num_blocks.unsqueeze(-1)
        # Slots past the end of a list all write to one extra column that is cut off again.
        keep.scatter_(3, torch.where(valid, self.kv_indices, self.num_kv_blocks).long(), True)
        return keep[..., :-1]

    @property
    def complement(self) -> BlockLayout:
        """The layout of the blocks that are not listed, without a tail. No host sync.

        Attention over both, joined by the LSE, is dense attention, but for keys that boxes leave out of
        listed blocks.
        """
        visibility = self.visibility if isinstance(self.visibility, Visibility) else None
        return self.keeping(~self.listed, tail=False, visibility=visibility)

    def keeping(self, keep: Tensor, **changes: Any) -> BlockLayout:
        """The same layout of other blocks, as `from_mask` lists them; `changes` replace other fields."""
        rest = {field.name: getattr(self, field.name) for field in fields(self)} | changes
        del rest["kv_indices"], rest["kv_num_blocks"]
        return self.from_mask(keep, **rest)

    @property
    def density(self) -> Tensor:
        """Executed blocks / all blocks, a scalar tensor on the device in (0, 1].

        For causal layouts, of the blocks a dense causal kernel would execute; an order can scatter the past
        over more blocks than those, and the quotient then exceeds 1.
        """
        lists = self.kv_num_blocks.shape[:2].numel()
        return self.kv_num_blocks.sum().float() / (lists * self.dense_blocks)

    @property
    def dense_blocks(self) -> int:
        """Blocks that dense attention executes for one head of one sample."""
        if isinstance(self.visibility, Visibility):
            return self.visibility.blocks(self.block_size)
        if not self.causal:
            return self.num_q_blocks * self.num_kv_blocks
        rows, columns = self.block_size
        last_query = [min((i + 1) * rows, self.q_len) - 1 for i in range(self.num_q_blocks)]
        seen = (self.last_seen(query) + 1 for query in last_query)
        return sum(min(max(math.ceil(keys / columns), 0), self.num_kv_blocks) for keys in seen)

    def last_seen(self, query: Any) -> Any:
        """Under `causal`, the last key that a query at a position, a number or a tensor of them, sees."""
        return query + self.kv_len - self.q_len

    @property
    def device(self) -> torch.device:
        return self.kv_indices.device

    def to_block_order(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [B, H | Hkv, N, D] in the order that blocks are cut from; k and v get H heads if `kv_order`
        has H."""
        if self.q_order is not None:
            q = self.q_order.permute(q)
        if self.kv_order is not None:
            k, v = self.kv_order.permute(k), self.kv_order.permute(v)
        return q, k, v

    def to_sequence_order(self, tokens: Tensor) -> Tensor:
        """[B, H, M, D] or [B, H, M] in the order of blocks -> the same in the order of the sequence."""
        return tokens if self.q_order is None else self.q_order.restore(tokens)

    def to_mask(self, batch: int = 1) -> Tensor:
        """Bool [B, H | 1, M, N] in the order of the sequence: True where a query sees a key. For tests."""
        rows, columns = self.block_size
        q_block = blocks_of_tokens(self.q_order, self.q_len, rows, self.device)
        kv_block = blocks_of_tokens(self.kv_order, self.kv_len, columns, self.device)
        heads = max(self.listed.shape[1], q_block.shape[1], kv_block.shape[1])
        listed = per_head(self.listed, heads).expand(batch, -1, -1, -1)
        b = torch.arange(batch, device=self.device)[:, None, None, None]
        h = torch.arange(heads, device=self.device)[:, None, None]
        mask = listed[b, h, per_head(q_block, heads)[..., None], per_head(kv_block, heads)[:, :, None]]
        return mask & self.visible(batch)

    def visible(self, batch: int = 1) -> Tensor:
        """Bool [B, 1, M, N]: what causality, visibility and padding allow, blocks aside."""
        seen = torch.ones(batch, 1, self.q_len, self.kv_len, dtype=torch.bool, device=self.device)
        keys = torch.arange(self.kv_len, device=self.device)
        if self.causal:
            last = self.last_seen(torch.arange(self.q_len, device=self.device))[:, None]
            seen &= keys <= last
            if self.window is not None:
                seen &= keys > last - self.window
        if self.visibility is not None:
            seen &= self.visibility.mask(self.device)
        if self.kv_lengths is not None:
            seen &= keys < self.kv_lengths[:, None, None, None]
        return seen

    def draw(self, batch: int = 0, head: int = 0) -> str:
        """One head's blocks as text, a row of queries a line."""
        keep = self.listed[min(batch, self.listed.shape[0] - 1), min(head, self.listed.shape[1] - 1)]
        return "\n".join("".join("█" if kept else "·" for kept in row) for row in keep.tolist())
