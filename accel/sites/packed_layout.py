"""A layout as one bit for each block: what is kept between steps, a thirtieth of the bytes of its lists."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from accel.kernels.layout.compact_lists import compact_lists
from accel.kernels.layout.layout import BlockLayout

LARGE = 1 << 20


@dataclass(frozen=True)
class PackedLayout:
    """What `unpacked` makes the layout of again. No host sync either way.

    Args:
        bits: uint8 [B | 1, H | 1, Mb, ceil(Nb / 8)]; bit n of byte i says whether block 8 i + n is listed.
        rest: the layout without its lists.
    """

    bits: Tensor
    rest: BlockLayout

    @classmethod
    def of(cls, layout: BlockLayout) -> PackedLayout:
        listed = layout.listed
        eights = pad(listed, (0, -listed.shape[3] % 8)).unflatten(3, (-1, 8))
        bits = (eights * _weights(layout.device)).sum(dim=4, dtype=torch.uint8)
        return cls(bits, replace(layout, kv_indices=layout.kv_indices[..., :0].clone()))

    def unpacked(self) -> BlockLayout:
        count = self.rest.num_kv_blocks
        listed = (self.bits[..., None] & _weights(self.rest.device)).flatten(3)[..., :count] > 0
        return replace(self.rest, kv_indices=compact_lists(listed)[0])


def kept(layout: BlockLayout) -> BlockLayout | PackedLayout:
    """A layout in the form to keep it in: small ones, which cost nothing, as they are."""
    large = isinstance(layout, BlockLayout) and layout.kv_indices.numel() >= LARGE
    return PackedLayout.of(layout) if large else layout


def served(layout: BlockLayout | PackedLayout) -> BlockLayout:
    """The layout of a kept one."""
    return layout.unpacked() if isinstance(layout, PackedLayout) else layout


def _weights(device: torch.device) -> Tensor:
    return (2 ** torch.arange(8, device=device)).to(torch.uint8)
