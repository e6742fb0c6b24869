"""Rectified: sparse attention scaled to the mass it holds, with those means of the other blocks that are
worth their error (arXiv 2511.19835).

With p the softmax over the means of all blocks, a row of blocks becomes R O_s + Σ p_j v_j: R is the mass of
its own blocks, and the sum is over the others whose score exceeds what pooling can get wrong,
|q̄ k̄| > |δq| |k̄| + |q̄| |δk|, with δ the root of the mean square distance from a block's mean.
"""

from __future__ import annotations

from torch import Tensor

from accel.kernels.attention.tail import tail_blocks, tail_log_count, tail_means
from accel.kernels.layout.blocks import blocks_of_tokens, per_head
from accel.kernels.layout.boxes import Boxes
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.planning.representatives import ragged_mean
from accel.recipe.compensate import Rectified
from accel.sites.grid.padding import without_padding


class Rectifier:
    """Args: settings: from the recipe; there are none."""

    def __init__(self, settings: Rectified) -> None:
        self.settings = settings

    def extra(self, tokens: int) -> float:
        """Executed blocks / all blocks, in addition to the layout's: only means are multiplied."""
        return 0.0

    def __call__(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> Tensor:
        """`out` [B, H, M, D] over the layout's blocks, rectified.

        Raises:
            ValueError: if the layout has a tail, which holds the other blocks' means already, or boxes, which
                hide a part of the blocks that it lists.
        """
        if isinstance(layout.visibility, Boxes):
            raise ValueError("blocks that a window cuts cannot be rectified: they would count as whole")
        if layout.tail:
            raise ValueError("a layout with a tail cannot be rectified: its means would count twice")
        heads, dim = q.shape[1], q.shape[3]
        if layout.kv_lengths is not None:
            q = without_padding(q, layout.kv_lengths)
        q, k, v = layout.to_block_order(q, k, v)
        rows = layout.block_size[0]
        mean_q, square_q = (ragged_mean(x, 2, rows) for x in (q, q.float().square()))
        mean_k, mean_v = (per_head(x, heads).float() for x in tail_means(k, v, layout))
        square_k = per_head(tail_means(k.float().square(), v, layout)[0], heads)
        scores = mean_q @ mean_k.transpose(2, 3)
        noise = _spread(mean_q, square_q)[..., None] * mean_k.norm(dim=3)[:, :, None]
        noise = noise + mean_q.norm(dim=3)[..., None] * _spread(mean_k, square_k)[:, :, None]
        listed = layout.listed
        counts = per_head(tail_blocks(layout).tokens, heads)[:, :, None].float().log()
        counts = counts.where(listed, tail_log_count(layout))
        mass = (scores * dim**-0.5 + counts).softmax(dim=3).nan_to_num(nan=0.0)
        share = (mass * listed).sum(dim=3, keepdim=True)
        others = (mass * (~listed & (scores.abs() > noise))) @ mean_v
        blocks = blocks_of_tokens(layout.q_order, layout.q_len, rows, layout.device)
        blocks = blocks.expand(*out.shape[:3])[..., None]
        others = others.gather(2, blocks.expand(*out.shape[:3], dim))
        return (out.float() * share.gather(2, blocks) + others).to(out.dtype)


def _spread(mean: Tensor, square: Tensor) -> Tensor:
    """The root of the mean square distance from a block's mean, of means and means of squares [..., D]."""
    return (square - mean.square()).sum(dim=-1).clamp(min=0).sqrt()
