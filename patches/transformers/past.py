"""Past: the part of a request's cache that one layer's call is about, and what was in it before the call."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Keys:
    """Keys at one moment: which tensor, and how often it had been written to. Keeps no tensor alive.

    Args:
        tensor: of the keys; none where there was none.
        version: of the tensor; none where PyTorch does not count (inference mode).
    """

    tensor: weakref.ref[Tensor] | None
    version: int | None

    @classmethod
    def of(cls, keys: Tensor | None) -> Keys:
        if not isinstance(keys, Tensor):
            return cls(None, None)
        return cls(weakref.ref(keys), None if keys.is_inference() else keys._version)

    def are(self, later: Keys) -> bool:
        """Whether a look at a later moment found the same keys, nothing written in between."""
        mine = None if self.tensor is None else self.tensor()
        theirs = None if later.tensor is None else later.tensor()
        return mine is not None and mine is theirs and self.version == later.version


@dataclass(frozen=True)
class Past:
    """What a layer's cache was when its call began.

    Args:
        layer: the layer's part of the cache. What is remembered of a request belongs to it.
        before: the keys in it, before those of the call were added.
    """

    layer: weakref.ref[Any]
    before: Keys

    @property
    def now(self) -> Keys:
        """The keys in it at this moment."""
        return Keys.of(getattr(self.layer(), "keys", None))
