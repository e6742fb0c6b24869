"""How far a layout's attention is from dense attention, judged on every n-th query of a sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from accel.kernels.attention.tail import tail_log_count, tail_means
from accel.kernels.layout.blocks import blocks_of_tokens, per_head
from accel.kernels.layout.layout import BlockLayout


class Judgement(NamedTuple):
    """What a layout does to a sample.

    Args:
        recall: share of the attention mass on listed blocks, mean over queries and heads.
        error: Frobenius norm of the output's error over that of the dense output.
    """

    recall: float
    error: float


class Probes:
    """Dense attention of every `step`-th query, kept to compare layouts with.

    A step that shares no divisor with the grid or the blocks meets every column, and every position in a
    block, equally often.

    Args:
        q, k, v: float32 [1, H, N, D], with as many key heads as query heads.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, step: int) -> None:
        self.k, self.v = k, v
        self.rows = torch.arange(step // 2, q.shape[2], step)
        self.queries = q[:, :, self.rows] * q.shape[3] ** -0.5
        logits = self.queries @ k.transpose(-1, -2)
        self.lse = logits.logsumexp(dim=-1, keepdim=True)
        self.weights = logits.sub_(self.lse).exp_()  # [1, H, R, N]
        self.out = self.weights @ v

    def judge(self, layout: BlockLayout) -> Judgement:
        heads = self.k.shape[1]
        listed = per_head(layout.listed, heads)[0]
        q_blocks, kv_blocks = (
            per_head(blocks_of_tokens(order, self.k.shape[2], size, self.k.device), heads)[0]
            for order, size in zip((layout.q_order, layout.kv_order), layout.block_size, strict=True)
        )
        sums = torch.empty(heads, len(self.rows), 1)
        out = torch.empty_like(self.out[0])
        for head in range(heads):
            keep = listed[head][q_blocks[head, self.rows]][:, kv_blocks[head]]
            kept = self.weights[0, head] * keep
            sums[head] = kept.sum(dim=-1, keepdim=True)
            out[head] = kept @ self.v[0, head]
        recall = sums.mean().item()
        if layout.tail:
            weights, values = self._tail(layout, q_blocks)
            sums, out = sums + weights.sum(dim=-1, keepdim=True), out + weights @ values
        error = (out / sums - self.out[0]).norm() / self.out[0].norm()
        return Judgement(recall, error.item())

    def _tail(self, layout: BlockLayout, q_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [H, R, Nb] and values [H, Nb, D] of the blocks that are not listed."""
        k, v = self.k, self.v
        if layout.kv_order is not None:
            k, v = layout.kv_order.permute(k), layout.kv_order.permute(v)
        keys, values = tail_means(k, v, layout)
        counts = per_head(tail_log_count(layout), k.shape[1])[0]
        bias = torch.stack(
            [of_head[blocks[self.rows]] for of_head, blocks in zip(counts, q_blocks, strict=True)]
        )
        logits = self.queries[0] @ keys[0].transpose(-1, -2) + bias - self.lse[0]
        return logits.exp(), values[0]
