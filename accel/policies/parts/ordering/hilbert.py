"""A space-filling curve through any box: the generalised Hilbert curve, all boxes of a level at once."""

from __future__ import annotations

import torch
from torch import Tensor


def hilbert_positions(shape: tuple[int, int, int]) -> Tensor:
    """Int64 [F·H·W], row-major positions in a box of `shape` in the order in which the curve visits them.

    Split as Červený's generalised Hilbert curve is: a box is cut in two along its longest side, in three
    where two sides are alike, else in five, so that steps go to a neighbour, almost always, or near one
    where a side is odd. A box is an origin and three signed edges: the curve starts at the origin, ends at
    the far end of the first edge, and covers volume-many places on the curve from its rank on.
    """
    axes = sorted(range(3), key=lambda axis: -shape[axis])
    edges = torch.zeros(1, 3, 3, dtype=torch.int64)
    for place, axis in enumerate(axes):
        edges[0, place, axis] = shape[axis]
    origins, ranks = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    order = torch.empty(shape[0] * shape[1] * shape[2], dtype=torch.int64)
    while len(ranks):
        line = (edges.abs().sum(dim=2) > 1).sum(dim=1) <= 1
        _walk_lines(order, shape, origins[line], edges[line], ranks[line])
        origins, edges, ranks = _split(origins[~line], edges[~line], ranks[~line])
    return order


def _walk_lines(
    order: Tensor, shape: tuple[int, int, int], origins: Tensor, edges: Tensor, ranks: Tensor
) -> None:
    """Write the places of boxes that are a line of cells into `order`."""
    lengths = edges.abs().sum(dim=2)
    count, longest = lengths.max(dim=1)
    step = edges[torch.arange(len(edges)), longest].sign()
    box = torch.repeat_interleave(torch.arange(len(edges)), count)
    along = torch.arange(len(box)) - (count.cumsum(0) - count)[box]
    cell = origins[box] + along[:, None] * step[box]
    order[ranks[box] + along] = (cell[:, 0] * shape[1] + cell[:, 1]) * shape[2] + cell[:, 2]


def _split(origins: Tensor, edges: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes of the next level."""
    a, b, c = edges.unbind(1)
    w, h, d = (edge.abs().sum(dim=1) for edge in (a, b, c))
    wide = (2 * w > 3 * h) & (2 * w > 3 * d)
    flat = ~wide & (3 * h > 4 * d)
    thin = ~wide & ~flat & (3 * d > 4 * h)
    levels = []
    for cut, chosen in (
        (_in_two, wide),
        (_in_three, flat),
        (_in_three_across, thin),
        (_in_five, ~wide & ~flat & ~thin),
    ):
        rank = ranks[chosen]
        for origin, *child in cut(origins[chosen], a[chosen], b[chosen], c[chosen]):
            child_edges = torch.stack(child, dim=1)
            levels.append((origin, child_edges, rank))
            rank = rank + child_edges.abs().sum(dim=2).prod(dim=1)
    origins, edges, ranks = (torch.cat(parts) for parts in zip(*levels, strict=True))
    filled = edges.abs().sum(dim=2).prod(dim=1) > 0
    return origins[filled], edges[filled], ranks[filled]


def _half(edge: Tensor) -> Tensor:
    """Half of each edge, rounded to an even number of cells where there is room for one."""
    half = torch.div(edge, 2, rounding_mode="floor")
    odd = (half.abs().sum(dim=1) % 2 == 1) & (edge.abs().sum(dim=1) > 2)
    return half + odd[:, None] * edge.sign()


def _in_two(o: Tensor, a: Tensor, b: Tensor, c: Tensor) -> list[tuple[Tensor, ...]]:
    a2 = _half(a)
    return [(o, a2, b, c), (o + a2, a - a2, b, c)]


def _in_three(o: Tensor, a: Tensor, b: Tensor, c: Tensor) -> list[tuple[Tensor, ...]]:
    a2, b2 = _half(a), _half(b)
    back = o + (a - a.sign()) + (b2 - b.sign())
    return [(o, b2, c, a2), (o + b2, a, b - b2, c), (back, -b2, c, -(a - a2))]


def _in_three_across(o: Tensor, a: Tensor, b: Tensor, c: Tensor) -> list[tuple[Tensor, ...]]:
    a2, c2 = _half(a), _half(c)
    back = o + (a - a.sign()) + (c2 - c.sign())
    return [(o, c2, a2, b), (o + c2, a, b, c - c2), (back, -c2, -(a - a2), b)]


def _in_five(o: Tensor, a: Tensor, b: Tensor, c: Tensor) -> list[tuple[Tensor, ...]]:
    a2, b2, c2 = _half(a), _half(b), _half(c)
    da, db, dc = a.sign(), b.sign(), c.sign()
    return [
        (o, b2, c2, a2),
        (o + b2, c, a2, b - b2),
        (o + (b2 - db) + (c - dc), a, -b2, -(c - c2)),
        (o + (a - da) + b2 + (c - dc), -c, -(a - a2), b - b2),
        (o + (a - da) + (b2 - db), -b2, c2, -(a - a2)),
    ]
