"""Unpadded: a padded batch taken apart, so that no method sees padding and no time is spent on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from accel.kernels.layout.layout import BlockLayout
from accel.patches.transformers.call import SequenceCall
from accel.patches.transformers.mask import Visible

Place = tuple[slice, slice, slice]
EVERYTHING = slice(None), slice(None), slice(None)


@dataclass(frozen=True)
class Layouts:
    """The layout of each part."""

    each: tuple[BlockLayout, ...]

    @property
    def density(self) -> Tensor:
        """Executed blocks / blocks of dense attention, a scalar tensor on the device."""
        dense = sum(layout.dense_blocks for layout in self.each)
        return torch.stack([layout.density * (layout.dense_blocks / dense) for layout in self.each]).sum()


@dataclass(frozen=True)
class Parts:
    """What is attended to apart: the samples of a call, or the whole batch if nothing is padded.

    Args:
        calls: each without padding and without keys that no query sees; views, not copies.
        places: [B, H, M], where the queries of each are; everything outside these is padding.
    """

    calls: tuple[SequenceCall, ...]
    places: tuple[Place, ...]

    @classmethod
    def of(cls, call: SequenceCall, visible: Visible) -> Parts:
        if visible.spans is None:
            return cls((_part(call, EVERYTHING, slice(visible.kv_len)),), (EVERYTHING,))
        offset = visible.kv_len - call.q.shape[2]
        calls, places = [], []
        for sample, (start, end) in enumerate(visible.spans):
            first, last = max(start - offset, 0), end - offset
            if first < last:
                # One mask can serve all samples.
                samples = slice(sample, sample + 1) if len(visible.spans) > 1 else slice(None)
                places.append((samples, slice(None), slice(first, last)))
                calls.append(_part(call, places[-1], slice(start, end)))
        return cls(tuple(calls), tuple(places))

    def plan(self, layout: Callable[[SequenceCall], BlockLayout]) -> Layouts:
        return Layouts(tuple(layout(call) for call in self.calls))

    def join(self, outs: Sequence[Tensor], q: Tensor) -> Tensor:
        """One output like q [B, H, M, D] from the calls' outputs; 0 at padding."""
        if self.places == (EVERYTHING,):
            return outs[0]
        joined = torch.zeros_like(q)
        for place, out in zip(self.places, outs, strict=True):
            joined[place] = out
        return joined


def _part(call: SequenceCall, place: Place, keys: slice) -> SequenceCall:
    vision = None if call.vision is None else call.vision[place[0], place[2]]
    return replace(
        call, q=call.q[place], k=call.k[place[0], :, keys], v=call.v[place[0], :, keys], vision=vision
    )
