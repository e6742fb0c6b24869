"""Attention that a stock processor asks FlexAttention for, through a slot.

A block mask is an object with a function in it, which an opaque operator does not take. So compiled blocks
are cut at these calls, and `fullgraph=True` is refused there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor

from accel.patches.diffusers.filled_queries import FilledQueries
from accel.patches.diffusers.routed_processor import RoutedProcessor, calling
from accel.patches.observers import interceptor, is_recorded, records_gradients
from accel.patches.site import AttentionFn
from accel.patches.slot import call_slot, slot_at
from accel.patches.untraced import untraced


class FlexRoute(NamedTuple):
    """What travels in the parallel configuration's place: the number of a slot, and the configuration."""

    handle: Tensor
    config: Any


class FlexProcessor(RoutedProcessor):
    """Mixin in front of a stock processor that hands block masks to diffusers' dispatcher.

    Its queries are the last of its keys.
    """

    behind = False

    def __init__(self, original: Any, fn: AttentionFn) -> None:
        super().__init__(original, FilledQueries(fn, self.behind))

    @staticmethod
    def rerouted(stock_call: Callable) -> Callable:
        twin = calling(stock_call, _dispatch)

        @functools.wraps(stock_call)
        def call(self: FlexProcessor, *args: Any, **kwargs: Any) -> Any:
            return self.original(*args, **kwargs) if is_recorded() else twin(self, *args, **kwargs)

        return call

    @property
    def _attention_backend(self) -> AttentionBackendName | str | None:
        return self.original._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, chosen: AttentionBackendName | str | None) -> None:
        self.original._attention_backend = chosen

    @property
    def _parallel_config(self) -> FlexRoute:
        return FlexRoute(self.slot.handle, self.original._parallel_config)

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        self.original._parallel_config = config


class FlexBehind(FlexProcessor):
    """The same where the queries are the first of the keys."""

    behind = True


def _dispatch(
    query: Tensor, key: Tensor, value: Tensor, *, parallel_config: FlexRoute, **rest: Any
) -> Tensor:
    """What the processors call in place of `dispatch_attention_fn`; the same but for the route."""
    handle, config = parallel_config
    compiling = torch.compiler.is_compiling()
    traced_backward = compiling and records_gradients(query, key, value)
    if config is not None or traced_backward or (compiling and interceptor() is not None):
        return dispatch_attention_fn(query, key, value, parallel_config=config, **rest)
    return _attend(query, key, value, handle, compiling, rest)


@untraced
def _attend(
    query: Tensor, key: Tensor, value: Tensor, handle: Tensor, compiled: bool, rest: dict[str, Any]
) -> Tensor:
    # Eager FlexAttention makes the matrix of all pairs, which is why users compile.
    flex = compiled and rest.get("backend") in (AttentionBackendName.FLEX, AttentionBackendName.FLEX.value)
    stock = _compiled_dispatch() if flex else dispatch_attention_fn
    # A slot's function takes the usual scale. Heads filled up to FlexAttention's 16 dims have another.
    scale = rest.get("scale")
    scaled = query if scale is None else query * (scale * query.shape[-1] ** 0.5)
    slot, mask = slot_at(handle), rest.get("attn_mask")
    return call_slot(slot, scaled, key, value, mask, lambda: stock(query, key, value, **rest))


@functools.cache
def _compiled_dispatch() -> Callable[..., Tensor]:
    return torch.compile(dispatch_attention_fn)
