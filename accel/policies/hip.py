"""Hip: keys found by hierarchical search over real keys, never averages (arXiv 2406.09827, 2502.08910)."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.noun import noun
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.decode.stages import AnyDecode
from accel.policies.parts.always import Tokens
from accel.policies.parts.grid_blocks import require_grid
from accel.policies.parts.ordering.orders import Hilbert, Order, token_order
from accel.policies.parts.ramp import Ramp, fixed
from accel.policies.parts.selectors import Share
from accel.policies.policy import BlockSize, Policy
from accel.policies.search.candidates import Candidates, grid_candidates, sequence_candidates
from accel.policies.search.stages import Stages
from accel.policies.search.tree import Tree

CHUNK_ELEMENTS = 1 << 26


@noun
class Hip(Policy):
    """The same number of key blocks for every block of queries, found without scoring every key.

    A sequence without a grid is taken for causal. Halving and chunks follow the order of keys, so on a grid
    the order should keep neighbours together.

    Args:
        density: blocks to find / all key blocks, in (0, 1], in addition to those that are always kept: text
            and the diagonal on a grid, sink and recent tokens in a sequence.
        budget: keys to find instead, whatever the length: then the work is O(T log T) with the tree search.
        search: how they are found.
        sink: first tokens of a sequence that are always kept.
        window: tokens before the query that are always kept in a sequence.
        order: on a grid, what blocks are cut from.
        block_size: (query rows, key rows).
        decode: how single queries after a cache find their keys; None searches as for any others.
    """

    method: Literal["hip"] = "hip"
    density: Share | Ramp = 0.2
    budget: Annotated[int, Field(ge=1)] | None = None
    search: Annotated[Tree | Stages, Field(discriminator="kind")] = field(default_factory=Tree)
    sink: Tokens = 256
    window: Tokens = 1024
    order: Order = field(default_factory=Hilbert)
    block_size: BlockSize = (64, 64)
    decode: AnyDecode | None = None

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        """The blocks of each sample and head; see `Policy.layout`.

        Raises:
            ValueError: if the grid is one of other tokens.
        """
        q_len, kv_len = q.shape[2], k.shape[2]
        if grid is None:
            candidates = sequence_candidates(q_len, kv_len, self.sink, self.window, self.block_size, q.device)
            found = self._find(q, k, candidates)
            lists = torch.cat([candidates.must.expand(*found.shape[:-1], -1), found], dim=-1)
            lists = lists.sort(dim=-1).values.int()
            counts = (lists < math.ceil(kv_len / self.block_size[1])).sum(dim=-1, dtype=torch.int32)
            return BlockLayout(lists, counts, self.block_size, q_len, kv_len, causal=True)
        grid = require_grid(self.method, q_len, kv_len, grid)
        order = token_order(self.order, grid, q.device)
        choices = grid_candidates(grid, self.order, self.block_size, q.device)
        keep = choices.must.new_zeros(*q.shape[:2], *choices.must.shape)
        # What was not found writes to one extra column that is cut off again.
        keep = pad(keep, (0, 1)).scatter_(3, self._find(q, k, choices, order), True)[..., :-1] | choices.must
        return BlockLayout.from_mask(keep, self.block_size, q_len, kv_len, q_order=order, kv_order=order)

    def _find(self, q: Tensor, k: Tensor, candidates: Candidates, order: TokenOrder | None = None) -> Tensor:
        """Int64 [B, H, Mb, C], the blocks found, and the number of all blocks where there are fewer than C.

        In PyTorch a few rows at a time, so that the gathered keys fit in memory.
        """
        rows, blocks = len(candidates.counts), math.ceil(k.shape[2] / self.block_size[1])
        if not candidates.most:
            return q.new_empty(*q.shape[:2], rows, 0, dtype=torch.int64)
        budget = self._budget(blocks)
        if q.is_cuda and isinstance(self.search, Tree):
            on_gpu = self.search.find_on_gpu(q, k, order, candidates, self.block_size, budget)
            if on_gpu is not None:
                return on_gpu
        if order is not None:
            q, k = order.permute(q), order.permute(k)
        keys_per_row = self.search.gathered_keys(candidates.most, budget, self.block_size[1])
        at_once = max(1, CHUNK_ELEMENTS // (q.shape[0] * q.shape[1] * q.shape[3] * keys_per_row))
        found = []
        for first in range(0, rows, at_once):
            chunk = slice(first, min(first + at_once, rows))
            place, valid = self.search.find(q, k, chunk, candidates, self.block_size, budget)
            block = torch.where(valid, candidates.blocks(chunk, place), blocks)
            found.append(block.expand(*q.shape[:2], -1, -1))
        return torch.cat(found, dim=2)

    def _budget(self, blocks: int) -> int:
        """How many blocks to find for a block of queries."""
        if self.budget is not None:
            return math.ceil(self.budget / self.block_size[1])
        return max(1, round(fixed(self.density) * blocks))
