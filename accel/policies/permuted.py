"""Permuted: keys sorted by importance, so that heavy ones share few blocks (PBS-Attn, arXiv 2510.21270)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout.blocks import causal_blocks, per_head
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.noun import noun
from accel.patches.context import Context, HeadShare
from accel.patches.grid import TokenGrid
from accel.policies.decode.stages import AnyDecode
from accel.policies.parts.grid_blocks import block_counts, require_grid, text_blocks
from accel.policies.parts.ordering.key_importance import key_order
from accel.policies.parts.scores import Pooled, Score
from accel.policies.parts.selectors import Selector, TopP, keep_of_share
from accel.policies.policy import BlockSize, Policy


@noun
class Permuted(Policy):
    """Sorts keys inside segments, one order for each key head, and keeps the heaviest blocks.

    Attention does not depend on the order of keys, so the result is exact up to the blocks left out;
    causality is decided on original positions. A sequence without a grid is taken for causal: the last
    queries are the probes, and what a query sees of its own segment is always kept, as is the block with
    the first token; a key head for which that is as many blocks as dense attention's or more keeps them
    all in place. On a grid the probes are spread evenly over all tokens, and a head is sorted only where
    that saves blocks. Block means are over the tokens there are; the published code divides the mean of a
    ragged last block by the full size.

    Args:
        segment: tokens of a segment, a multiple of the key block; None for all video tokens. Sequences not
            longer than a segment stay dense.
        probes: queries from whose attention importance is taken.
        score, select: how blocks are ranked and how many are kept; for sequences, of the blocks of earlier
            segments.
        block_size: (query rows, key rows).
        decode: how single queries after a cache find their keys; None plans them as any others.
    """

    method: Literal["permuted"] = "permuted"
    segment: Annotated[int, Field(ge=16)] | None = 256
    probes: Annotated[int, Field(ge=1)] = 128
    score: Score = field(default_factory=Pooled)
    select: Selector = field(default_factory=lambda: TopP(0.9))
    block_size: BlockSize = (128, 128)
    decode: AnyDecode | None = None

    def __post_init__(self) -> None:
        if self.segment is not None and self.segment % self.block_size[1]:
            raise ValueError(
                f"segment must be a multiple of the {self.block_size[1]} keys of a block, got {self.segment}"
            )

    @property
    def spans_heads(self) -> bool:  # type: ignore[override]
        return self.select.budget == "layer"

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        """The blocks of each sample and head, and the order of keys of each sample and key head.

        Raises:
            ValueError: if the grid is one of other tokens.
        """
        if grid is None:
            return self._sequence_layout(q, k)
        grid = require_grid(self.method, q.shape[2], k.shape[2], grid)
        keep, order = plan_grid(
            q,
            k,
            grid,
            self.block_size,
            self.segment,
            self.probes,
            self.score,
            self.select,
            lengths=context.kv_lengths,
            heads=context.heads,
        )
        return BlockLayout.from_mask(
            keep, self.block_size, grid.tokens, grid.tokens, kv_order=TokenOrder(order)
        )

    def _sequence_layout(self, q: Tensor, k: Tensor) -> BlockLayout:
        if self.segment is None:
            raise ValueError("segment must be a number of tokens for a sequence without a grid, got None")
        q_len, kv_len = q.shape[2], k.shape[2]
        if kv_len <= self.segment:
            return BlockLayout.full(q_len, kv_len, self.block_size, q.device, causal=True)
        keep, order = plan_sequence(q, k, self.block_size, self.segment, self.probes, self.score, self.select)
        keep = keep & per_head(blocks_with_a_visible_key(order, q_len, self.block_size), q.shape[1])
        keep, order = where_sorting_saves(keep, order, self.block_size, q_len)
        return BlockLayout.from_mask(
            keep,
            self.block_size,
            q_len,
            kv_len,
            causal=True,
            kv_order=TokenOrder(order),
        )


def plan_sequence(
    q: Tensor,
    k: Tensor,
    block_size: tuple[int, int],
    segment: int,
    probes: int,
    score: Score,
    select: Selector,
) -> tuple[Tensor, Tensor]:
    """The blocks, bool [B, H, Mb, Nb], and the order of keys, int64 [B, Hkv, N], of a causal sequence.

    Query r is at position N - M + r. Segments are cut from the first key on; the rest after the last
    whole one is not sorted. All blocks of the segments of a query block's own tokens are kept, whether their
    keys are past or future.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    order = key_order(q[:, :, -probes:], k, range(0, kv_len // segment * segment, segment))
    position = torch.arange(0, q_len, block_size[0], device=q.device)[:, None] + kv_len - q_len
    first_segment = position.clamp(min=0) // segment
    last_segment = ((position + block_size[0]).clamp(max=kv_len) - 1) // segment
    of_key = torch.arange(0, kv_len, block_size[1], device=q.device) // segment
    earlier = of_key < first_segment
    own = ~earlier & (of_key <= last_segment)
    sorted_k = TokenOrder(order).permute(k)
    mass = score.mass(q, sorted_k, block_size, may=earlier)
    chosen = select.keep(mass, torch.zeros_like(earlier)[None, None], earlier[None, None])
    sink = (order == 0).int().argmax(dim=-1, keepdim=True) // block_size[1]  # [B, Hkv, 1]
    is_sink = torch.arange(len(of_key), device=q.device) == sink
    return chosen | own | per_head(is_sink, q.shape[1])[:, :, None], order


def blocks_with_a_visible_key(order: Tensor, q_len: int, block_size: tuple[int, int]) -> Tensor:
    """Bool [B, Hkv, Mb, Nb]: blocks of the ordered keys with at least one that is not in the future."""
    kv_len = order.shape[-1]
    missing = -kv_len % block_size[1]
    filled = torch.nn.functional.pad(order, (0, missing), value=kv_len)
    first_key = filled.unflatten(-1, (-1, block_size[1])).amin(dim=-1)
    last_query = (torch.arange(0, q_len, block_size[0], device=order.device) + block_size[0]).clamp(
        max=q_len
    ) - 1
    return first_key[:, :, None] <= (last_query + kv_len - q_len)[:, None]


def where_sorting_saves(
    keep: Tensor, order: Tensor, block_size: tuple[int, int], q_len: int
) -> tuple[Tensor, Tensor]:
    """The plan, with all blocks and no order for key heads that would execute at least as many as dense.

    Sorting scatters a query's past over all blocks of its segment, which a short text is mostly made
    of. No layout is therefore denser than dense attention.
    """
    dense = causal_blocks(block_size, q_len, order.shape[2], keep.device)
    heads_of_key = keep.shape[1] // order.shape[1]
    listed = keep.unflatten(1, (-1, heads_of_key)).sum(dim=(2, 3, 4))  # [B, Hkv]
    saves = listed < heads_of_key * dense.sum()
    in_place = torch.arange(order.shape[2], device=order.device)
    keep = torch.where(per_head(saves, keep.shape[1])[..., None, None], keep, dense)
    return keep, torch.where(saves[..., None], order, in_place)


def plan_grid(
    q: Tensor,
    k: Tensor,
    grid: TokenGrid,
    block_size: tuple[int, int],
    segment: int | None,
    probes: int,
    score: Score,
    select: Selector,
    gated: bool = True,
    lengths: Tensor | None = None,
    heads: HeadShare | None = None,
) -> tuple[Tensor, Tensor]:
    """The blocks, bool [B, H, Mb, Nb], and the order of keys, int64 [B, Hkv, N], of a token grid.

    Text is not sorted, and its rows and columns are kept; `lengths`, int32 [B], are the keys of each sample
    that are not padding.
    """
    start = grid.video_start
    size = min(segment or grid.video_tokens, grid.video_tokens)
    segments = range(start, start + grid.video_tokens // size * size, size)
    count = min(probes, grid.video_tokens)
    spread = torch.linspace(start, start + grid.video_tokens - 1, count, dtype=torch.float64, device=q.device)
    order = key_order(q[:, :, spread.round().long()], k, segments, block_size[1] if gated else None)
    must = torch.zeros(1, 1, *block_counts(grid, block_size), dtype=torch.bool, device=q.device)
    for rows, columns in zip(*(text_blocks(grid, side) for side in block_size), strict=True):
        must[:, :, rows] = True
        must[..., columns] = True
    mass = score.mass(q, TokenOrder(order).permute(k), block_size, lengths=lengths)
    return keep_of_share(select, mass, must, None, heads), order
