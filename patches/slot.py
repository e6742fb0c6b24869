"""Slot: where an attention function sits in a model, reachable by number from compiled code.

`torch.compile` specialises on Python objects and integers, so a different function for every layer recompiles
the same block for every layer. A number in a tensor is data: every layer shares one graph, and one opaque
operator looks the function up when it runs. A change from dense to sparse between two steps is invisible to
the compiler for the same reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from accel.patches.autocast import as_autocast, autocast_dtype, cast, under_autocast
from accel.patches.observers import interceptor
from accel.patches.site import AttentionFn

DenseFn = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Slot:
    """An attention function together with the dense attention it replaces.

    Args:
        fn: called for every attention of the site.
        dense: the model's own attention; q [B, M, H, D], k, v [B, N, Hkv, D], mask or None -> [B, M, H, D].

    Copying or unpickling a slot gives a new one with a new number.
    """

    def __init__(self, fn: AttentionFn, dense: DenseFn) -> None:
        self.fn = fn
        self.dense = dense
        self._take_number()

    def _take_number(self) -> None:
        number = next(_NUMBERS)
        _SLOTS[number] = self
        # On the CPU whatever the model's device: reading it never waits for an accelerator.
        self.handle = torch.tensor(number, dtype=torch.int64, device="cpu")

    def __getstate__(self) -> dict:
        return {"fn": self.fn, "dense": self.dense}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._take_number()


_SLOTS: WeakValueDictionary[int, Slot] = WeakValueDictionary()
_NUMBERS = itertools.count()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, handle: Tensor) -> Tensor:
    """Run the function installed at `handle`: a plain call in eager mode, one opaque operator when traced.

    Somebody who intercepts attention while it is traced gets PyTorch's to intercept, as in the stock model.
    """
    if torch.compiler.is_compiling():
        if interceptor() is not None:
            return dense_sdpa(q, k, v, mask)
        q, k, v = as_autocast(q, k, v)
        return torch.ops.sparse_accel.attend(q, k, v, mask, handle)
    return call_slot(slot_at(handle), q, k, v, mask)


def dense_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's attention; q [B, M, H, D], k and v [B, N, Hkv, D], mask or None -> [B, M, H, D]."""
    grouped = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).transpose(1, 2)


def slot_at(handle: Tensor) -> Slot:
    """The slot whose number a tensor holds."""
    return _SLOTS[int(handle)]


def call_slot(
    slot: Slot, q: Tensor, k: Tensor, v: Tensor, mask: Any, stock: Callable[[], Tensor] | None = None
) -> Tensor:
    """Run a slot's function, in the type that autocast would run attention in.

    Args:
        stock: the model's own attention; None is the slot's.
    """
    dense = partial(slot.dense, q, k, v, mask) if stock is None else stock
    dtype = autocast_dtype(q.device)
    if dtype is None:
        return slot.fn(q, k, v, mask, dense)
    with torch.autocast(q.device.type, enabled=False):
        low = cast(q, dtype), cast(k, dtype), cast(v, dtype)
        return slot.fn(*low, mask, under_autocast(dense, q.device, dtype))


# Whether a call is sparse, and by which blocks, is decided again each time: a recorded graph would replay one
# layer's and one step's decision for all.
@torch.library.custom_op("sparse_accel::attend", mutates_args=(), tags=torch.Tag.cudagraph_unsafe)
def _attend_op(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, handle: Tensor) -> Tensor:
    return call_slot(slot_at(handle), q, k, v, mask).contiguous()


@_attend_op.register_fake
def _attend_fake(q: Tensor, k: Tensor, v: Tensor, *rest: object) -> Tensor:
    return q.new_empty(*q.shape[:-1], v.shape[-1])
