"""Announced: what an attention module's arguments say of its cache, kept for its attention call.

An attention function is handed keys and not the cache they come from. A hook on the module sees the cache
among the arguments, and leaves word of it in the same thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from transformers.cache_utils import Cache, EncoderDecoderCache

from accel.patches.transformers.past import Keys, Past

_ANNOUNCED: ContextVar[Past | None] = ContextVar("accel_past", default=None)


class CacheWatch:
    """What one layer's calls left in the caches that they belong to, for as long as those live."""

    def __init__(self) -> None:
        self._left: weakref.WeakKeyDictionary[Any, Keys | None] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[CacheWatch], tuple[()]]:
        return CacheWatch, ()

    def announce(self, arguments: Iterable[Any], layer_idx: int) -> None:
        """Leave word of the cache among a module's arguments, for the attention call to come."""
        layer = layer_of(arguments, layer_idx)
        if layer is None:
            _ANNOUNCED.set(None)
            return
        left = self._left.get(layer)
        _ANNOUNCED.set(Past(weakref.ref(layer), left is not None and left.are_in(layer)))

    def take(self) -> Past | None:
        """What was announced for the call under way, whose keys are in the cache by now.

        None where no cache was, or code is compiled.
        """
        past = _ANNOUNCED.get()
        _ANNOUNCED.set(None)
        layer = None if past is None else past.layer()
        if layer is not None:
            self._left[layer] = Keys.of(layer)
        return past


def layer_of(arguments: Iterable[Any], layer_idx: int) -> Any:
    """A layer's part of the first cache among some arguments; None without a cache or if it has none yet."""
    cache = next((argument for argument in arguments if isinstance(argument, Cache)), None)
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    layers = getattr(cache, "layers", ())
    return layers[layer_idx] if 0 <= layer_idx < len(layers) else None
