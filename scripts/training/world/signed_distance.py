"""Signed distances to the outlines of the demo's shapes: negative inside, in the units of the coordinates.

Every shape is centred on the origin and scaled so that its area is about that of a circle of the same radius.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]


def circle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Exact distance to a circle."""
    return torch.hypot(x, y) - radius


def square(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance to an axis-parallel square; too small outside its corners, where only the sign is used."""
    return torch.maximum(x.abs(), y.abs()) - 0.886 * radius


def triangle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance to an equilateral triangle that points up (towards negative y)."""
    return torch.maximum(y, math.sqrt(3) / 2 * x.abs() - y / 2) - 0.778 * radius


def star(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance to the edges of a five-pointed star, one point up, its notches at half the tips' distance."""
    tenth = math.pi / 5
    tip, notch = 1.46 * radius, 0.73 * radius
    angle = torch.atan2(x, -y).abs()
    # folds the plane onto half a point of the star: 0 at its tip, one tenth of a turn at its notch
    angle = (torch.remainder(angle + tenth, 2 * tenth) - tenth).abs()
    distance = torch.hypot(x, y)
    along, across = distance * torch.cos(angle), distance * torch.sin(angle)
    edge_along, edge_across = notch * math.cos(tenth) - tip, notch * math.sin(tenth)
    cross = edge_across * (along - tip) - edge_along * across
    return cross / torch.hypot(edge_along, edge_across)


DISTANCES: dict[str, Distance] = {"circle": circle, "square": square, "triangle": triangle, "star": star}
