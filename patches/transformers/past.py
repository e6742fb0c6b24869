"""Past: the part of a request's cache that one layer's call continues, and whether others touched it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Past:
    """What a layer's cache was when its call began.

    Args:
        layer: the layer's part of the cache. What is remembered of a request belongs to it.
        is_as_left: whether the keys in it were those that the layer's last call left there: nobody has
            cropped, reset or reordered them. False where that cannot be known.
    """

    layer: weakref.ref[Any]
    is_as_left: bool


@dataclass(frozen=True)
class Keys:
    """The keys in a cache at one moment: which tensor, and how often it had been written to by then.

    Keeps no tensor alive.
    """

    tensor: weakref.ref[Tensor]
    version: int

    @classmethod
    def of(cls, layer: Any) -> Keys | None:
        """The keys in a layer's cache; None if it has none, or PyTorch does not count their versions (in
        inference mode)."""
        keys = getattr(layer, "keys", None)
        if not isinstance(keys, Tensor) or keys.is_inference():
            return None
        return cls(weakref.ref(keys), keys._version)

    def are_in(self, layer: Any) -> bool:
        """Whether a layer's part of a cache still holds the same, with nothing written in between."""
        keys = getattr(layer, "keys", None)
        return isinstance(keys, Tensor) and keys is self.tensor() and keys._version == self.version
