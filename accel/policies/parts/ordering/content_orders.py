"""Orders that follow from what tokens are, one for queries and one for keys: clusters, buckets of a hash.

Text keeps its place behind the video tokens, as in every order but the row-major one.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout.order import TokenOrder
from accel.noun import noun
from accel.patches.grid import TokenGrid

POWER_ROUNDS = 8


@noun
class Clusters:
    """k-means clusters one after another, near ones side by side (arXiv 2505.18875).

    The published method has blocks of the clusters' own sizes; here blocks of one size are cut from the
    sorted tokens, so a block at a border holds tokens of two clusters. Clusters follow one another along the
    axis in which their centres differ most.

    Args:
        count: clusters of a head's queries, and of its keys.
        rounds: of k-means, which starts from tokens spread evenly over the sequence.
    """

    count: Annotated[int, Field(ge=2, le=4096)] = 256
    rounds: Annotated[int, Field(ge=1, le=100)] = 10
    kind: Literal["clusters"] = "clusters"

    def arrange(self, tokens: Tensor) -> Tensor:
        """Int64 [B, H, N]: the tokens [B, H, N, D], cluster by cluster."""
        count = min(self.count, tokens.shape[2])
        start = torch.linspace(0, tokens.shape[2] - 1, count, device=tokens.device).long()
        centres = tokens[:, :, start].float()
        for _ in range(self.rounds):
            centres = _means_of(tokens, _nearest(tokens, centres), centres)
        place = _along_main_axis(centres).argsort(dim=-1).argsort(dim=-1)
        return place.gather(2, _nearest(tokens, centres)).argsort(dim=-1, stable=True)


@noun
class Hashed:
    """Buckets of an angular hash in Gray-code order, so that neighbours differ on one side of one plane
    (arXiv 2310.05869).

    Args:
        planes: random planes through the origin, the same for queries and keys; 2 to the power of it are the
            buckets.
    """

    planes: Annotated[int, Field(ge=1, le=16)] = 7
    kind: Literal["hashed"] = "hashed"

    def arrange(self, tokens: Tensor) -> Tensor:
        """Int64 [B, H, N]: the tokens [B, H, N, D], bucket by bucket."""
        generator = torch.Generator().manual_seed(0)
        planes = torch.randn(tokens.shape[3], self.planes, generator=generator).to(tokens.device)
        side = (tokens.float() @ planes > 0).long()
        # A Gray code's place in its sequence: every bit is the parity of the bits from the highest to it.
        bits = side.cumsum(dim=-1) % 2
        weights = 2 ** torch.arange(self.planes - 1, -1, -1, device=tokens.device)
        return (bits * weights).sum(dim=-1).argsort(dim=-1, stable=True)


ContentOrder = Clusters | Hashed


def content_order(order: ContentOrder, tokens: Tensor, grid: TokenGrid) -> TokenOrder:
    """The order of all tokens [B, H, N, D] of `grid` for each head, text last. No host sync."""
    start, end = grid.video_start, grid.video_start + grid.video_tokens
    video = order.arrange(tokens[:, :, start:end]) + start
    rest = torch.arange(grid.tokens, device=tokens.device)
    rest = torch.cat([rest[:start], rest[end:]]).expand(*video.shape[:2], -1)
    return TokenOrder(torch.cat([video, rest], dim=2))


def _nearest(tokens: Tensor, centres: Tensor) -> Tensor:
    """Int64 [B, H, N]: the nearest of the centres [B, H, C, D]; one head at a time, to bound memory."""
    half_norms = centres.square().sum(dim=-1)[:, :, None] / 2
    heads = [
        (half_norms[:, h] - tokens[:, h].float() @ centres[:, h].transpose(-1, -2)).argmin(dim=-1)
        for h in range(tokens.shape[1])
    ]
    return torch.stack(heads, dim=1)


def _means_of(tokens: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """Float32 [B, H, C, D]: each cluster's mean; an empty one keeps its centre."""
    index = labels[..., None].expand_as(tokens)
    sums = torch.zeros_like(centres).scatter_add_(2, index, tokens.float())
    counts = torch.zeros_like(centres[..., 0]).scatter_add_(
        2, labels, torch.ones_like(labels, dtype=torch.float32)
    )
    return torch.where(counts[..., None] > 0, sums / counts.clamp(min=1)[..., None], centres)


def _along_main_axis(centres: Tensor) -> Tensor:
    """Float32 [B, H, C]: where each centre lies on the axis of the largest variance, by power iteration."""
    centred = centres - centres.mean(dim=2, keepdim=True)
    axis = centred[:, :, :1].transpose(-1, -2) + 1e-6
    for _ in range(POWER_ROUNDS):
        axis = torch.nn.functional.normalize(centred.transpose(-1, -2) @ (centred @ axis), dim=2)
    return (centred @ axis)[..., 0]
