"""FlexPrefill: each head chooses by pooled scores or by lines, whichever its last queries confirm
(arXiv 2502.20766)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout.blocks import causal_blocks, per_head
from accel.kernels.planning.representatives import ragged_mean
from accel.noun import noun
from accel.policies.parts.lines import blocks_of_lines, by_key_heads, line_sums, probe_attention
from accel.policies.parts.scores import Pooled
from accel.policies.parts.selectors import Share, TopP


@noun
class FlexPrefill:
    """Two ways to choose, and the distance between an estimate and the truth that decides.

    The last queries' attention to each block is estimated from means and computed exactly. Where the two are
    near, means serve the whole head: its heaviest blocks, of all rows together, up to a share of the mass.
    Elsewhere the head keeps the lines its last queries show, up to the same share of each kind.

    Args:
        mass: the share, in (0, 1].
        distance: the largest Jensen-Shannon distance, the root of the divergence in nats, at which means
            are trusted.
        probes: the last queries that decide.
    """

    mass: Share = 0.95
    distance: Annotated[float, Field(ge=0, le=1)] = 0.1
    probes: Annotated[int, Field(ge=1)] = 128
    kind: Literal["flex_prefill"] = "flex_prefill"

    def blocks(self, q: Tensor, k: Tensor, block_size: tuple[int, int]) -> Tensor:
        """Bool [B, H, Mb, Nb] of a causal sequence; q [B, H, M, D] are the last of the k [B, Hkv, N, D]."""
        near = self.distances(q, k, block_size[1]) < self.distance  # [B, H]
        may = causal_blocks(block_size, q.shape[2], k.shape[2], q.device)[None, None]
        mass = Pooled().mass(q, k, block_size, causal=True)
        pooled = TopP(self.mass, budget="head").keep(mass, torch.zeros_like(may), may)
        columns, slashes = (reaching(sums, self.mass) for sums in line_sums(q, k, self.probes))
        lines = blocks_of_lines(columns, slashes, block_size, q.shape[2])
        return torch.where(near[..., None, None], pooled, lines)

    def distances(self, q: Tensor, k: Tensor, columns: int) -> Tensor:
        """Float32 [B, H]: how far the pooled estimate for the last queries is from their true attention."""
        pairs = by_key_heads(q, k, min(self.probes, q.shape[2]))
        return torch.cat([self._distances(*pair, columns) for pair in pairs], dim=1)

    def _distances(self, q: Tensor, k: Tensor, columns: int) -> Tensor:
        true = probe_attention(q, k, self.probes).mean(dim=2)
        missing = -k.shape[2] % columns
        true = torch.nn.functional.pad(true, (0, missing)).unflatten(-1, (-1, columns)).sum(dim=-1)
        mean_q = q[:, :, -self.probes :].mean(dim=2, dtype=torch.float32)
        mean_k = per_head(ragged_mean(k, 2, columns), q.shape[1])  # [B, H, Nb, D]
        logits = (mean_k @ mean_q[..., None])[..., 0] * q.shape[3] ** -0.5
        sizes = torch.full_like(logits[0, 0], columns)
        sizes[-1] -= missing
        return jensen_shannon(true, (logits + sizes.log()).softmax(dim=-1))


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """The root of the Jensen-Shannon divergence of distributions [..., N], in nats."""
    middle = (a + b) / 2
    terms = [torch.special.xlogy(x, x) - torch.special.xlogy(x, middle) for x in (a, b)]
    return ((terms[0] + terms[1]).sum(dim=-1) / 2).clamp(min=0).sqrt()


def reaching(sums: Tensor, share: float) -> Tensor:
    """Bool, like `sums` [..., N]: the fewest entries that add up to a share of all; 1 takes every entry."""
    if share == 1:
        return torch.ones_like(sums, dtype=torch.bool)
    values, order = sums.sort(dim=-1, descending=True, stable=True)
    reached = values.cumsum(dim=-1, dtype=torch.float64)
    before = reached - values < share * reached[..., -1:]
    return torch.zeros_like(before).scatter(-1, order, before)
