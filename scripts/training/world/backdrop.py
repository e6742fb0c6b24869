"""The demo's backgrounds: two tones mixed by a plain, gradient, striped or checkered pattern."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scripts.training.world.words import BACKGROUND_KINDS, BACKGROUND_TONES

Pattern = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(x: Tensor, y: Tensor, dice: Tensor) -> Tensor:
    """The first tone alone."""
    return torch.zeros(len(dice), *torch.broadcast_shapes(x.shape, y.shape), device=dice.device)


def gradient(x: Tensor, y: Tensor, dice: Tensor) -> Tensor:
    """From the first tone to the second across the frame, in any direction."""
    angle = 2 * math.pi * dice[:, 0, None, None]
    along = (x / _width(x) - 0.5) * torch.cos(angle) + (y / _width(y) - 0.5) * torch.sin(angle)
    return 0.5 + along / (torch.cos(angle).abs() + torch.sin(angle).abs())


def striped(x: Tensor, y: Tensor, dice: Tensor) -> Tensor:
    """Stripes in any direction, a tone and its neighbour together a tenth to a fifth of the frame wide."""
    angle, wide, phase = dice[:, :, None, None].unbind(1)
    period = (0.1 + 0.1 * wide) * _side(x, y)
    return _square_wave(x * torch.cos(math.pi * angle) + y * torch.sin(math.pi * angle), period, phase)


def checkered(x: Tensor, y: Tensor, dice: Tensor) -> Tensor:
    """A chessboard whose squares are a tenth to a sixth of the frame wide."""
    shift_x, wide, shift_y = dice[:, :, None, None].unbind(1)
    period = (0.2 + 0.13 * wide) * _side(x, y)
    columns, rows = _square_wave(x, period, shift_x), _square_wave(y, period, shift_y)
    return columns + rows - 2 * columns * rows


def _width(pixels: Tensor) -> int:
    return max(pixels.shape)


def _side(x: Tensor, y: Tensor) -> int:
    return min(_width(x), _width(y))


def _square_wave(place: Tensor, period: Tensor, phase: Tensor) -> Tensor:
    """0 and 1 in turn, half a period each, with edges one pixel soft."""
    inside = (torch.remainder(place / period + phase, 1) - 0.5).abs() - 0.25
    return (0.5 + inside * period).clamp(0, 1)


PATTERNS: dict[str, Pattern] = {
    "plain": plain,
    "gradient": gradient,
    "striped": striped,
    "checkered": checkered,
}


def backdrops(background: Tensor, kind: Tensor, dice: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Backgrounds in [0, 1], [B, 3, H, W].

    `background` and `kind` (int64 [B]) count in the tables of `words`, `dice` is [B, 3] in [0, 1), and
    `x` [1, W] and `y` [H, 1] are pixel centres in pixels.
    """
    tones = torch.tensor(list(BACKGROUND_TONES.values()), device=dice.device)[background]  # [B, 2, 3]
    first, second = tones[:, :, :, None, None].unbind(1)
    share = plain(x, y, dice)
    for number, name in enumerate(BACKGROUND_KINDS):
        share = torch.where((kind == number)[:, None, None], PATTERNS[name](x, y, dice), share)
    return first + (second - first) * share[:, None]
