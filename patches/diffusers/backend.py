"""The one attention backend that diffusers' own dispatcher calls for accelerated processors.

The member below is an `AttentionBackendName` that is not listed in the enum: processors can carry it, but
neither `set_attention_backend("...")` nor the environment can select it for a model that has no slots, and
diffusers' process-wide active backend is never touched.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from accel.patches.diffusers.dense_backend import DenseBackend
from accel.patches.diffusers.ulysses import ParallelRoute, attend_in_parallel
from accel.patches.observers import records_gradients
from accel.patches.slot import attend

NAME = "sparse_accel"


class Routed(NamedTuple):
    """What travels in the mask's place: the model's own mask, and the number of the slot to call."""

    mask: Tensor | None
    handle: Tensor


def _member() -> AttentionBackendName:
    member = str.__new__(AttentionBackendName, NAME)
    member._name_ = NAME.upper()
    member._value_ = NAME
    return member


BACKEND = _member()


def register() -> None:
    """Make diffusers' dispatcher know the backend; done at the first installation, not at import."""
    if BACKEND not in _AttentionBackendRegistry._backends:
        _AttentionBackendRegistry.register(BACKEND, supports_context_parallel=True)(_routed_attention)


def _routed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Routed | Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    _parallel_config: ParallelRoute | None = None,
) -> Tensor:
    """[B, M, H, D] attention through a slot: that of `attn_mask`, of the mode it is called under, or, where a
    model's tokens are spread over processes, of what replaces its configuration."""
    if _parallel_config is not None:
        mask = attn_mask.mask if isinstance(attn_mask, Routed) else attn_mask
        # A mode this is called under would catch the attention of dense calls a second time.
        with torch._C.DisableTorchFunction():
            return attend_in_parallel(query, key, value, mask, enable_gqa, _parallel_config)
    if not isinstance(attn_mask, Routed):
        return plain_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if torch.compiler.is_compiling() and records_gradients(query, key, value):
        return dispatch_attention_fn(query, key, value, attn_mask=attn_mask.mask)
    return attend(query, key, value, attn_mask.mask, attn_mask.handle)


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """PyTorch's attention of [B, M, H, D], which the mode it is called under may catch."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    rest: dict[str, Any] = {"enable_gqa": True} if enable_gqa else {}
    rest |= {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    return scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, **rest).transpose(1, 2)


class DenseDispatch:
    """The dense attention diffusers would have run: the backend the user chose, or the active one.

    Args:
        name: the processor's `_attention_backend` before it was replaced, or what the user set since.
        ring: the parallel configuration of a ring, which every call passes around; None where a call sees all
            tokens.
    """

    def __init__(self, name: AttentionBackendName | str | None, ring: Any = None) -> None:
        self.name = name
        self.ring = ring

    @property
    def label(self) -> str:
        """The backend, for people."""
        name = self.name or _AttentionBackendRegistry.get_active_backend()[0]
        return f"diffusers' {AttentionBackendName(name).value}"

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return self.over(self.ring, q, k, v, mask)

    def over(self, parallel: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention over the processes of a parallel configuration; over this one's tokens without one.

        Raises:
            ValueError: if the backend would ignore the configuration.
        """
        name = None if self.name is None else AttentionBackendName(self.name)
        if parallel is not None:
            require_parallel(name or _AttentionBackendRegistry.get_active_backend()[0])
        grouped = q.shape[2] != k.shape[2]
        return dispatch_attention_fn(
            q, k, v, attn_mask=mask, enable_gqa=grouped, backend=name, parallel_config=parallel
        )


class PreferredDense(DenseDispatch):
    """The same, but the preferred backend where a call has no mask and sees all tokens."""

    def __init__(self, stock: DenseDispatch, backend: DenseBackend) -> None:
        super().__init__(stock.name, stock.ring)
        self.backend = backend

    @property
    def label(self) -> str:
        return self.backend.label(super().label)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        stock = super().__call__
        if mask is not None or self.ring is not None:
            return stock(q, k, v, mask)
        return self.backend(stock, q, k, v)


def require_parallel(backend: AttentionBackendName) -> None:
    """Refuse a backend that does not support several processes, as `enable_parallelism` does."""
    if not _AttentionBackendRegistry._is_context_parallel_available(backend):
        able = ", ".join(sorted(_AttentionBackendRegistry._supports_context_parallel - {NAME}))
        raise ValueError(
            f"attention backend {backend.value!r} does not support context parallelism; choose one of {able}"
        )
