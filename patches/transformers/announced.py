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


def announce(arguments: Iterable[Any], layer_idx: int) -> None:
    """Leave word of the cache among a module's arguments, for the attention call to come."""
    _ANNOUNCED.set(past_of(arguments, layer_idx))


def take_announced() -> Past | None:
    """What was announced for the call under way; none where no cache was, or code is compiled."""
    past = _ANNOUNCED.get()
    if past is not None:
        _ANNOUNCED.set(None)
    return past


def past_of(arguments: Iterable[Any], layer_idx: int) -> Past | None:
    """The layer's part of the first cache among some arguments; none if there is none, or not yet."""
    cache = next((argument for argument in arguments if isinstance(argument, Cache)), None)
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    layers = getattr(cache, "layers", ())
    if not layer_idx < len(layers):
        return None
    layer = layers[layer_idx]
    return Past(weakref.ref(layer), Keys.of(getattr(layer, "keys", None)))
