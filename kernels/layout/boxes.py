"""Boxes: each query of a grid sees the keys in a box around it, exactly, whatever blocks are cut from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.visibility import ALWAYS, Tags, mask_of

BITS = 31


@dataclass(frozen=True)
class Boxes:
    """What a method leaves out inside the blocks that it lists; the model itself hides nothing.

    The tags of a key are the numbers of its place on three axes, those of a query the ranges it sees.

    Args:
        axes: of each axis, for every place its number and the first and last number that its queries see.
        before, after: tokens before and after those of the grid, which see all and are seen by all.

    Raises:
        ValueError: if the numbers of three places do not fit in 31 bits with one between them.
    """

    axes: tuple[tuple[tuple[int, int, int], ...], ...]
    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        if sum(width + 1 for width in self.widths) > BITS:
            raise ValueError(f"axes of {[len(axis) for axis in self.axes]} places need more than {BITS} bits")

    @property
    def widths(self) -> list[int]:
        """Bits for the numbers of each axis, and one number more."""
        return [len(axis).bit_length() for axis in self.axes]

    @property
    def q_len(self) -> int:
        tokens = 1
        for axis in self.axes:
            tokens *= len(axis)
        return self.before + tokens + self.after

    @property
    def kv_len(self) -> int:
        return self.q_len

    def tags(self, device: torch.device | str) -> Tags:
        return _tags(self, torch.device(device))

    def mask(self, device: torch.device | str) -> Tensor:
        """Bool [M, N]."""
        return mask_of(self.tags(device))

    def packed(self, tags: Tags) -> tuple[int, Tags]:
        """What `tags_by_block` found, the three numbers of each token in one, and a bit above each number.

        With that bit set in `high` and `last`, `high - first` and `last - low` keep it on every axis on which
        two ranges have something in common, and no axis borrows from the next.
        """
        guards, total, places = 0, [torch.zeros_like(part[..., 0]) for part in tags], 0
        for axis, width in enumerate(self.widths):
            most = 2**width - 1  # What no query sees.
            ends = (most - 1, most - 1, most, most)
            for packed, part, end in zip(total, tags, ends, strict=True):
                packed += part[..., axis].clamp(0, end) << places
            guards += 1 << (places + width)
            places += width + 1
        low, high, first, last = total
        return guards, Tags(low, high | guards, first, last | guards)


@from_sizes()
def _tags(boxes: Boxes, device: torch.device) -> Tags:
    axes = [torch.tensor(axis, dtype=torch.int32, device="cpu").T for axis in boxes.axes]

    def spread(column: int, other: int) -> Tensor:
        places = torch.cartesian_prod(*(axis[column] for axis in axes))
        padding = 0, 0, boxes.before, boxes.after
        return torch.nn.functional.pad(places, padding, value=other).contiguous().to(device)

    # All others have every number in their range but those of keys that nobody sees.
    return Tags(spread(1, 1 - ALWAYS), spread(2, ALWAYS - 1), spread(0, -ALWAYS), spread(0, ALWAYS))
