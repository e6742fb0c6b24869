"""RoutedProcessor: a stock diffusers processor whose attention goes through a slot.

Every stock processor ends in PyTorch's `scaled_dot_product_attention`, called by itself or, once our backend
is chosen, by diffusers' dispatcher. A `TorchFunctionMode` that is entered inside the processor sees that one
call, lives on PyTorch's own thread-local stack, and is traced away by `torch.compile`: all layers share one
graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from accel.patches.diffusers.backend import BACKEND, DenseDispatch, register
from accel.patches.diffusers.skipping import introduce
from accel.patches.diffusers.ulysses import ParallelRoute, is_ring
from accel.patches.observers import is_recorded, records_gradients
from accel.patches.site import AttentionFn
from accel.patches.slot import DenseFn, Slot, attend, dense_sdpa


class RoutedProcessor:
    """Mixin in front of a stock processor that calls PyTorch's attention itself.

    Projections, norms, rotary embedding, masks and output stay the parent's, and so does the signature that
    attention modules filter their arguments by.

    Args:
        original: the stock processor that is put back on removal, and runs what is recorded.
        fn: the attention function to install.

    Without arguments the class gives a stock processor: diffusers rebuilds those that an IP-Adapter leaves
    alone, by `type(processor)()`, and a slot has its place and cannot be rebuilt.
    """

    def __new__(cls, original: Any = None, *rest: Any) -> Any:
        return stock_class(cls)() if original is None else super().__new__(cls)

    def __getnewargs__(self) -> tuple[Any]:
        return (self.original,)

    def __init__(self, original: Any, fn: AttentionFn) -> None:
        introduce(type(self), type(original))
        self.original = original
        self.slot = Slot(fn, self.dense_of(original))

    @staticmethod
    def dense_of(original: Any) -> DenseFn:
        """The attention the stock processor runs."""
        return dense_sdpa

    @staticmethod
    def rerouted(stock_call: Callable) -> Callable:
        """A stock processor's `__call__` whose attention goes through the processor's slot."""
        return rerouted(stock_call)

    @staticmethod
    def least_keys(*args: Any, **kwargs: Any) -> int:
        """How many keys a call of attention has at least, for it to go through the slot; of the processor's
        arguments."""
        return 0


def calling(stock_call: Any, dispatch: Callable[..., Tensor]) -> FunctionType:
    """The stock function itself, in which `dispatch_attention_fn` is another function."""
    names = {**stock_call.__globals__, "dispatch_attention_fn": dispatch}
    twin = FunctionType(stock_call.__code__, names, stock_call.__name__, stock_call.__defaults__)
    twin.__annotations__ = stock_call.__annotations__
    return twin


def stock_class(cls: type) -> type:
    """The stock processor's class that a routed one is a subclass of."""
    return next(parent for parent in cls.__mro__ if not issubclass(parent, RoutedProcessor))


class DispatchingProcessor(RoutedProcessor):
    """Mixin in front of a stock processor that hands `self._attention_backend` to diffusers' dispatcher."""

    def __init__(self, original: Any, fn: AttentionFn) -> None:
        register()
        super().__init__(original, fn)
        self.backend_before = original._attention_backend
        self._parallel_config = original._parallel_config

    def __setstate__(self, state: dict[str, Any]) -> None:
        register()
        introduce(type(self), type(state["original"]))
        self.__dict__.update(state)

    @staticmethod
    def dense_of(original: Any) -> DenseFn:
        return DenseDispatch(original._attention_backend)

    @property
    def _attention_backend(self) -> AttentionBackendName:
        return BACKEND

    @_attention_backend.setter
    def _attention_backend(self, chosen: AttentionBackendName | str | None) -> None:
        # `set_attention_backend` on an accelerated model chooses what its dense calls run on.
        self.original._attention_backend = chosen
        self.slot.dense = DenseDispatch(chosen, self.slot.dense.ring)  # type: ignore[attr-defined]

    @property
    def _parallel_config(self) -> ParallelRoute | None:
        return None if self._parallel is None else ParallelRoute(self._parallel, self.slot.handle)

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        # `enable_parallelism` on an accelerated model.
        self.original._parallel_config = self._parallel = config
        ring = config if is_ring(config) else None
        self.slot.dense = DenseDispatch(self.slot.dense.name, ring)  # type: ignore[attr-defined]


def routed(*stock: type, mixin: type | None = None) -> dict[type, type]:
    """Each stock processor's class, and the subclass whose attention goes through a slot.

    Args:
        mixin: placed before the stock classes; None takes the one that fits how they call attention.
    """
    return {cls: _routed_class(cls, mixin or _mixin_of(cls)) for cls in stock}


def _mixin_of(stock: type) -> type:
    return DispatchingProcessor if hasattr(stock, "_attention_backend") else RoutedProcessor


@functools.cache
def _routed_class(stock: type, mixin: Any) -> type:
    members: dict[str, Any] = {"__reduce__": _reduce, "__module__": stock.__module__}
    if "__call__" not in vars(mixin):
        members["__call__"] = mixin.rerouted(stock.__call__)
    return type(f"Routed{stock.__name__}", (mixin, stock), members)


def _reduce(processor: RoutedProcessor) -> tuple:
    """How a processor of a class that no module holds is copied and pickled."""
    mixin, stock = type(processor).__bases__
    return _unpickled, (stock, mixin, processor.original), processor.__dict__


def _unpickled(stock: type, mixin: type, original: Any) -> Any:
    cls = _routed_class(stock, mixin)
    return cls.__new__(cls, original)


def rerouted(stock_call: Callable) -> Callable:
    """A processor's `__call__`, of the same signature, whose attention goes through the processor's slot."""

    @functools.wraps(stock_call)
    def call(self: RoutedProcessor, *args: Any, **kwargs: Any) -> Any:
        if is_recorded():
            return self.original(*args, **kwargs)
        with Rerouted(self.slot.handle, self.least_keys(*args, **kwargs)):
            return stock_call(self, *args, **kwargs)

    return call


class Rerouted(TorchFunctionMode):
    """Sends plain `scaled_dot_product_attention` to a slot and leaves every other function alone.

    Args:
        handle: the slot's number.
        least_keys: of a call that is sent.
    """

    def __init__(self, handle: Tensor, least_keys: int = 0) -> None:
        super().__init__()
        self.handle, self.least_keys = handle, least_keys

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        func = traceable(func)
        if func is not scaled_dot_product_attention or not is_plain(self.least_keys, *args, **kwargs):
            return func(*args, **kwargs)
        return routed_sdpa(self.handle, *args, **kwargs)


def traceable(func: Callable) -> Callable:
    """The same function in a form that `torch.compile` can trace from inside a mode."""
    return torch.unflatten if func is Tensor.unflatten else func


def is_plain(least_keys: int, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Whether a call over that many keys asks for nothing but a mask, and may be hidden from a compiler."""
    scaled = kwargs.get("scale") not in (None, query.shape[-1] ** -0.5)
    odd = args[1:] or kwargs.get("dropout_p") or kwargs.get("is_causal") or scaled
    traced_backward = torch.compiler.is_compiling() and records_gradients(query, key, value)
    return not odd and not traced_backward and key.shape[2] >= least_keys


def routed_sdpa(
    handle: Tensor, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **plain: Any
) -> Tensor:
    """q [B, H, M, D], k and v [B, Hkv, N, D] -> [B, H, M, D], through the slot at `handle`."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return attend(q, k, v, attn_mask, handle).transpose(1, 2)
