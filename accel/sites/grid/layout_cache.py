"""LayoutCache: keeps the layouts of a site between steps, and for both branches of guidance.

Large ones are kept as one bit for each block, a thirtieth of the bytes of their lists.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from accel.kernels.layout.compact_lists import compact_lists
from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.recipe.reuse import Reuse
from accel.sites.grid.call import Call
from accel.sites.grid.drift import has_drifted, head_means

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
    """A layout packed for keeping; small ones, which cost nothing, are kept unpacked."""
    large = isinstance(layout, BlockLayout) and layout.kv_indices.numel() >= LARGE
    return PackedLayout.of(layout) if large else layout


def served(layout: BlockLayout | PackedLayout) -> BlockLayout:
    """The layout of a kept one."""
    return layout.unpacked() if isinstance(layout, PackedLayout) else layout


def _weights(device: torch.device) -> Tensor:
    return (2 ** torch.arange(8, device=device)).to(torch.uint8)


@dataclass(frozen=True)
class _Kept:
    layout: BlockLayout | PackedLayout
    context: Context
    key: Hashable
    means: Tensor | None = None


class LayoutCache:
    """The layouts of one site, one for each branch of guidance and call that it gets in a forward.

    They are kept with the generation that they were made in, never here: requests that share a model do not
    meet in a site, and what a generation kept goes when it does.
    """

    def __init__(self, reuse: Reuse) -> None:
        self.reuse = reuse

    @property
    def reuses(self) -> bool:
        """Whether layouts are kept at all."""
        return self.reuse != Reuse()

    def layout(
        self, call: Call, make: Callable[[], BlockLayout], tokens: tuple[Tensor, Tensor] | None = None
    ) -> BlockLayout:
        """The kept layout if it still serves this call, else a new one, which `make` chooses.

        Args:
            tokens: the call's queries [B, H, M, D] and keys [B, Hkv, N, D]; without them nobody sees drift.
        """
        context, key, store = call.context, call.key, call.kept
        means = None if self.reuse.max_drift is None or tokens is None else head_means(*tokens)
        place = (id(self), 0 if self.reuse.branches else context.branch, call.number)
        known = store.get(place)
        if known is not None and known.key == key and self._serves(known, context, means):
            return served(known.layout)
        layout = make()
        if self.reuses:
            store[place] = _Kept(kept(layout), context, key, means)
        return layout

    def _serves(self, known: _Kept, now: Context, means: Tensor | None) -> bool:
        made = known.context
        if made.generation != now.generation or now.progress - made.progress > self.reuse.max_progress:
            return False
        age = now.turn - made.turn if made.step is None or now.step is None else now.step - made.step
        if not 0 <= age < self.reuse.steps:
            return False
        # Another branch takes over what this one kept or made in this step: its own tokens say nothing of it.
        if known.means is None or means is None or self.reuse.max_drift is None or made.branch != now.branch:
            return True
        return not has_drifted(known.means, means, self.reuse.max_drift, now.heads)
