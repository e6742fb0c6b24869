"""The paths of the demo's objects: where they are, how large and how turned, at every frame.

Time runs in units of 32 frames, so that a motion has the same speed in clips of any length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scripts.training.world.words import MOTIONS

FRAMES_PER_UNIT = 32


class Path(NamedTuple):
    """Centre (frame fractions, y down), size factor and turn (radians) of objects, each [N, F]."""

    x: Tensor
    y: Tensor
    scale: Tensor
    turn: Tensor


Motion = Callable[[Tensor, Tensor, Path], Path]


def resting(dice: Tensor, time: Tensor) -> Path:
    """Objects that stay where their first two dice put them, off the edges; dice [N, 6], time [F]."""
    still = torch.zeros(len(dice), len(time), device=dice.device)
    home = 0.32 + 0.36 * dice[:, :2, None]
    return Path(still + home[:, 0], still + home[:, 1], still + 1, still)


def moving(axis: str, sign: int) -> Motion:
    """A straight crossing of most of the frame in one time unit, along `axis`, towards its `sign`."""

    def move(dice: Tensor, time: Tensor, rest: Path) -> Path:
        before, after = 0.24 + 0.1 * dice[:, 2:3], 0.24 + 0.1 * dice[:, 3:4]
        place = 0.5 + sign * ((before + after) * time - before)
        return rest._replace(**{axis: place})

    return move


def bouncing(dice: Tensor, time: Tensor, rest: Path) -> Path:
    """Two to three hops a time unit on a floor near the bottom."""
    floor, height = 0.84 - 0.08 * dice[:, 2:3], 0.35 + 0.2 * dice[:, 3:4]
    hops = (2 + dice[:, 4:5]) * time + dice[:, 5:6]
    return rest._replace(y=floor - height * torch.sin(math.pi * hops).abs())


def orbiting(dice: Tensor, time: Tensor, rest: Path) -> Path:
    """One to one and a half turns a time unit, either way, about a point near the frame's middle."""
    distance = 0.18 + 0.1 * dice[:, 2:3]
    turns = _either_way(dice[:, 3:4]) * (1 + 0.5 * dice[:, 4:5]) * time + dice[:, 5:6]
    centre_x, centre_y = 0.5 + (rest.x - 0.5) / 3, 0.5 + (rest.y - 0.5) / 3
    angle = 2 * math.pi * turns
    return rest._replace(x=centre_x + distance * torch.cos(angle), y=centre_y + distance * torch.sin(angle))


def growing(dice: Tensor, time: Tensor, rest: Path) -> Path:
    """From half the size to one and a half times it, in one time unit."""
    return rest._replace(scale=rest.scale * (0.5 + time))


def shrinking(dice: Tensor, time: Tensor, rest: Path) -> Path:
    """From one and a half times the size to half of it, in one time unit, and no smaller."""
    return rest._replace(scale=rest.scale * (1.5 - time).clamp(min=0.5))


def spinning(dice: Tensor, time: Tensor, rest: Path) -> Path:
    """One to one and three quarters turns a time unit, either way, on the spot."""
    turns = _either_way(dice[:, 2:3]) * (1 + 0.75 * dice[:, 3:4]) * time
    return rest._replace(turn=2 * math.pi * turns)


def _either_way(die: Tensor) -> Tensor:
    return torch.where(die < 0.5, -1.0, 1.0)


MOTION_PATHS: dict[str, Motion] = {
    "moving left": moving("x", -1),
    "moving right": moving("x", 1),
    "moving up": moving("y", -1),
    "moving down": moving("y", 1),
    "bouncing": bouncing,
    "orbiting": orbiting,
    "growing": growing,
    "shrinking": shrinking,
    "spinning": spinning,
}


def paths(motion: Tensor, dice: Tensor, frames: int) -> Path:
    """The paths of N objects over `frames` frames; `motion` int64 [N] counts in MOTIONS, `dice` is [N, 6]."""
    time = torch.arange(frames, device=dice.device) / FRAMES_PER_UNIT
    path = resting(dice, time)
    for number, name in enumerate(MOTIONS):
        moved = MOTION_PATHS[name](dice, time, path)
        rows = (motion == number)[:, None]
        path = Path(*(torch.where(rows, new, old) for new, old in zip(moved, path, strict=True)))
    return path
