"""Reuse: keep a call's layout for some steps, and for both branches of guidance."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass as plain_dataclass

from pydantic import Field
from pydantic.dataclasses import dataclass

from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.policies.policy import STRICT
from accel.sites.packed_layout import PackedLayout, served
from accel.sites.packed_layout import kept as packed


@dataclass(frozen=True, config=STRICT)
class Reuse:
    """For how long the blocks chosen once are kept. Off by default.

    A layout never outlives its generation (a new one begins where the steps start again), nor a change of
    the tensors' shapes, of the grid or of the loaded adapters. It costs memory: a bit for every layer,
    head and pair of blocks, and the order of keys where each head has its own.

    Args:
        steps: a layout serves this many denoising steps, counted from the one it was made in. Where no
            scheduler counts them, those that had a forward are counted.
        max_progress: it is made anew once progress has moved by more than this, in (0, 1].
        branches: the second pass of classifier-free guidance takes over the layout of the first.
    """

    steps: int = Field(default=1, ge=1)
    max_progress: float = Field(default=1.0, gt=0, le=1)
    branches: bool = False


@plain_dataclass(frozen=True)
class _Kept:
    layout: BlockLayout | PackedLayout
    context: Context
    key: Hashable


class LayoutCache:
    """The layouts of one site, one for each branch of guidance and call that it gets in a forward."""

    def __init__(self, reuse: Reuse) -> None:
        self.reuse = reuse
        self._kept: dict[tuple[int, int], _Kept] = {}

    @property
    def reuses(self) -> bool:
        """Whether layouts are kept at all."""
        return self.reuse != Reuse()

    def layout(
        self, context: Context, key: Hashable, make: Callable[[], BlockLayout], call: int = 0
    ) -> BlockLayout:
        """The kept layout if it still serves this call, else a new one.

        Args:
            context: of the call.
            key: whatever the layout depends on besides; another key is another layout.
            make: chooses the blocks.
            call: which of the forward's calls to the site; some models make one for each sample.
        """
        place = (0 if self.reuse.branches else context.branch, call)
        kept = self._kept.get(place)
        if kept is not None and kept.key == key and self._serves(kept.context, context):
            return served(kept.layout)
        layout = make()
        if self.reuses:
            self._forget_before(context.generation)
            self._kept[place] = _Kept(packed(layout), context, key)
        return layout

    def _forget_before(self, generation: int) -> None:
        self._kept = {n: kept for n, kept in self._kept.items() if kept.context.generation == generation}

    def _serves(self, made: Context, now: Context) -> bool:
        if made.generation != now.generation or now.progress - made.progress > self.reuse.max_progress:
            return False
        if made.step is None or now.step is None:
            return now.turn - made.turn < self.reuse.steps
        return 0 <= now.step - made.step < self.reuse.steps
