"""Synthetic attention on the token grid of Wan at 480p: locality in space and time, content, sinks.

It does not come from a trained model: heads are composed from what is known of real ones. It offers a grid
of the real size, at which the embedded demo cannot run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from scripts.quality.samples import Sample

WAN_480P = TokenGrid(21, 30, 52)
DIM = 64
# For each head: how sharply it falls off over frames, rows and columns; how much content and sinks attract.
HEADS = (
    ((0.6, 7.0, 9.0), 1.0, 1.0),
    ((6.0, 1.0, 1.0), 2.0, 0.0),
    ((1.0, 1.5, 1.5), 4.0, 3.0),
)
LOCALITY = 9.0
CLUSTERS = 6
VALUE_FALLS = (6.0, 20.0, 30.0)
VALUE_NOISE = 0.3
SINKS = 4


def synthetic_sample(seed: int, grid: TokenGrid = WAN_480P) -> Sample:
    """One call of as many heads as `HEADS`.

    The logits of a query and a key are the sum of three terms and noise: a kernel of their distance on the
    grid, from random Fourier features; whether their cluster of content is the same, where clusters are blobs
    that move from frame to frame; and a constant for a few keys that attract every query.
    """
    generator = torch.Generator().manual_seed(seed)
    place = torch.cartesian_prod(*(torch.linspace(0, 1, n) for n in (grid.frames, grid.height, grid.width)))
    content = clusters(place, generator)
    heads = [one_head(place, content, generator, *head) for head in HEADS]
    q, k, v = (torch.stack(parts)[None] for parts in zip(*heads, strict=True))
    return Sample("synthetic", seed, q, k, v, Context(grid=grid, step=4, n_steps=8, progress=0.5))


def clusters(place: Tensor, generator: torch.Generator) -> Tensor:
    """[N, clusters]: soft membership in blobs that move in a straight line; the last is the background."""
    start, move = (torch.rand(CLUSTERS - 1, 2, generator=generator) for _ in range(2))
    centre = start + place[:, :1, None] * (move - start)  # [N, clusters - 1, 2]
    near = -((place[:, None, 1:] - centre) / 0.15).square().sum(dim=-1)
    return torch.cat([near, torch.full_like(near[:, :1], -1.5)], dim=1).mul(4).softmax(dim=1)


def detail(place: Tensor, generator: torch.Generator) -> Tensor:
    """[N, 40]: features that change within a few tokens, as values do."""
    phase = place @ (torch.randn(3, 20, generator=generator) * torch.tensor(VALUE_FALLS)[:, None])
    return torch.cat([phase.cos(), phase.sin()], dim=1) / math.sqrt(20)


def one_head(
    place: Tensor,
    content: Tensor,
    generator: torch.Generator,
    falls: tuple[float, float, float],
    drawn: float,
    sink: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [N, D]; features are unit-like vectors, scaled so that q · k / sqrt(D) is the wanted logit."""
    frequency = torch.randn(3, 20, generator=generator) * torch.tensor(falls)[:, None]
    phase = place @ frequency
    local = torch.cat([phase.cos(), phase.sin()], dim=1) / math.sqrt(20)
    seen = torch.zeros(len(place), 1)
    seen[torch.randperm(len(place), generator=generator)[:SINKS]] = sink
    parts = (
        (local * LOCALITY, local),
        (content * drawn * 1.5, content),
        (torch.ones(len(place), 1), seen * 2.0),
    )
    q, k = (torch.cat([pair[side] for pair in parts], dim=1) for side in (0, 1))
    noise = torch.randn(2, len(place), DIM - q.shape[1], generator=generator)
    q, k = (torch.cat([x, n], dim=1) for x, n in zip((q, k), noise * 0.25, strict=True))
    v = torch.cat([detail(place, generator), content], dim=1)
    v = torch.cat([v, torch.randn(len(place), DIM - v.shape[1], generator=generator) * VALUE_NOISE], dim=1)
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator)).Q
    return q @ turn * DIM**0.5, k @ turn, v @ turn
