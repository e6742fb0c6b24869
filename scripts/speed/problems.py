"""Problems to time kernels on, random tensors and random lists of blocks, and how wrong an answer is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from accel.kernels.layout.blocks import causal_blocks
from accel.kernels.layout.layout import BlockLayout

CHECKED = 256  # queries at either end


@dataclass(frozen=True)
class Problem:
    """One layout on one shape.

    Args:
        shape: "B,H[/Hkv],N,D[,causal]".
        density: of the lists.
        block: "query rows x key rows", such as 128x64.
        ragged: lists of a lognormal number of blocks instead of equally long ones.
    """

    shape: str
    density: float
    block: str
    ragged: bool = False

    def __str__(self) -> str:
        return f"{self.shape} {self.density} {self.block} {'ragged' if self.ragged else 'equal'}"

    @property
    def causal(self) -> bool:
        return self.shape.endswith("causal")

    @property
    def block_size(self) -> tuple[int, int]:
        rows, columns = self.block.split("x")
        return int(rows), int(columns)

    def qkv(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Random normal q [B, H, N, D] and k, v [B, Hkv, N, D]."""
        batch, heads, tokens, dim = self.shape.removesuffix(",causal").split(",")
        q_heads, _, kv_heads = heads.partition("/")
        return [
            torch.randn(int(batch), int(count), int(tokens), int(dim), device=device, dtype=dtype)
            for count in (q_heads, kv_heads or q_heads, kv_heads or q_heads)
        ]

    def layout(self, q: Tensor) -> BlockLayout:
        """Random blocks for q [B, H, N, D], made on its device: as many in every row, or a lognormal number
        (sigma 0.5) with the same mean."""
        (rows, columns), (batch, heads, tokens, _) = self.block_size, q.shape
        q_blocks, kv_blocks = math.ceil(tokens / rows), math.ceil(tokens / columns)
        past = torch.ones(q_blocks, kv_blocks, dtype=torch.bool, device=q.device)
        if self.causal:
            past = causal_blocks(self.block_size, tokens, tokens, q.device)
        count = (self.density * past.sum(dim=-1, keepdim=True)).expand(batch, heads, -1, -1)
        if self.ragged:
            count = count * torch.randn(count.shape, device=q.device).mul(0.5).sub(0.125).exp()
        weight = torch.rand(batch, heads, q_blocks, kv_blocks, device=q.device).masked_fill_(~past, 2.0)
        nth = (count.round().clamp(min=1, max=kv_blocks) - 1).long()
        keep = (weight <= weight.sort(dim=-1).values.gather(-1, nth)) & past
        return BlockLayout.from_mask(keep, self.block_size, tokens, tokens, causal=self.causal)


def error_of(out: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> float:
    """Largest relative error of the first head's first and the last head's last queries, against float64
    attention under the same lists; NaN if anything in `out` is not finite."""
    if not out.isfinite().all():
        return math.nan
    start = max(0, q.shape[2] - CHECKED) // layout.block_size[0] * layout.block_size[0]
    first, last = slice(0, CHECKED), slice(start, q.shape[2])
    return max(
        _error(out, q, k, v, layout, 0, first),
        _error(out, q, k, v, layout, q.shape[1] - 1, last),
    )


def _error(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, head: int, queries: slice
) -> float:
    rows, columns = layout.block_size
    some, kv_head = q[0, head, queries].double(), head * k.shape[1] // q.shape[1]
    keys, values = k[0, kv_head].double(), v[0, kv_head].double()
    keep = layout.listed[0, head, queries.start // rows :].repeat_interleave(rows, 0)[: len(some)]
    mask = keep.repeat_interleave(columns, 1)[:, : k.shape[2]]
    if layout.causal:
        positions = torch.arange(k.shape[2], device=q.device)
        mask = mask & (positions <= positions[queries, None])
    scores = (some @ keys.T * q.shape[3] ** -0.5).masked_fill(~mask, -torch.inf)
    # A query that sees nothing has an output of zero.
    exact = scores.softmax(dim=-1).nan_to_num(nan=0.0) @ values
    return float((out[0, head, queries].double() - exact).norm() / exact.norm())
