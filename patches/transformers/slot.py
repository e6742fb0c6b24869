"""SequenceSlot: a slot in a language model's layer, and the operator that compiled code reaches it by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from accel.patches.autocast import as_autocast, autocast_dtype, cast, under_autocast
from accel.patches.slot import Slot, slot_at
from accel.patches.transformers.announced import CacheWatch
from accel.patches.transformers.call import SequenceCall, SequenceFn, unknown_keyword
from accel.patches.transformers.dense import eager
from accel.patches.transformers.interface import DenseForward
from accel.patches.transformers.vision import announced


class SequenceSlot(Slot):
    """A sequence function installed at one attention module.

    Args:
        fn: called for every attention of the layer.
        dense: what the stock layer calls, whose dense calls run on it.
        module: the layer's attention module.
        stock: the configuration that the module shares with its model.
        config: the module's own while the slot is taken.
    """

    dense: DenseForward  # type: ignore[assignment]

    def __init__(
        self, fn: SequenceFn, dense: DenseForward, module: nn.Module, stock: Any, config: Any
    ) -> None:
        super().__init__(fn, dense)  # type: ignore[arg-type]
        self.module = module
        self.stock = stock
        self.config = config
        self.ours = config._attn_implementation
        self.replaced = stock._attn_implementation
        self.caches = CacheWatch()

    def __getstate__(self) -> dict:
        mine = ("module", "stock", "config", "ours", "replaced", "caches")
        return {**super().__getstate__(), **{name: vars(self)[name] for name in mine}}

    @property
    def is_wanted(self) -> bool:
        """Whether the model's implementation is still the one that the slot was taken from."""
        return self.stock._attn_implementation == self.replaced

    def before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Stand aside while the model is set to another implementation, and look at the cache."""
        wanted = self.ours if self.is_wanted else self.stock._attn_implementation
        if self.config._attn_implementation != wanted:
            self.config._attn_implementation_internal = wanted
        if not torch.compiler.is_compiling():
            # A module that several layers share is passed the layer it runs for.
            layer_idx: Any = kwargs.get("layer_idx", self.module.layer_idx)
            self.caches.announce((*args, *kwargs.values()), layer_idx)

    def run(
        self,
        module: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Output [B, M, H, Dv], and the probabilities where the call ran dense and has them.

        The output is contiguous, as transformers' own are: some models view it in another shape.
        """
        weights: list[Tensor | None] = [None]
        call = sequence_call(module, q, k, v, mask, kwargs, self.stock)
        call = replace(call, past=self.caches.take(), vision=announced(q))
        forward: Any = eager if call.wants_weights and self.replaced == "sdpa" else self.dense

        def run_dense() -> Tensor:
            out, weights[0] = forward(module, q, k, v, mask, **kwargs)
            return out

        dtype = autocast_dtype(q.device)
        if dtype is None:
            out = self.fn(call, run_dense)  # type: ignore[call-arg, arg-type]
            return out.contiguous(), weights[0]
        call = replace(call, q=cast(q, dtype), k=cast(k, dtype), v=cast(v, dtype))
        with torch.autocast(q.device.type, enabled=False):
            out = self.fn(call, under_autocast(run_dense, q.device, dtype))  # type: ignore[call-arg, arg-type]
        return out.contiguous(), weights[0]


def sequence_call(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kwargs: dict[str, Any], config: Any
) -> SequenceCall:
    """The call, with transformers' keyword arguments under our own names."""
    is_causal = kwargs.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    # Eager attention knows of causality only what its mask says.
    sees_everything = config._attn_implementation == "eager" and mask is None and q.shape[2] > 1
    weights = kwargs.get("output_attentions")
    weights = getattr(config, "output_attentions", False) if weights is None else weights
    return SequenceCall(
        q, k, v, mask,
        scale=kwargs.get("scaling"),
        causal=bool(is_causal) and not sees_everything,
        window=kwargs.get("sliding_window"),
        softcap=kwargs.get("softcap"),
        sinks=kwargs.get("s_aux"),
        bias=kwargs.get("position_bias"),
        dropout=kwargs.get("dropout") or 0.0,
        wants_weights=bool(weights),
        unknown=unknown_keyword(kwargs),
    )  # fmt: skip


def attend_sequence(
    slot: SequenceSlot, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor:
    """The slot's attention as one opaque operator, for code that is being traced."""
    q, k, v = as_autocast(q, k, v)
    return torch.ops.sparse_accel.attend_sequence(
        q, k, v, mask, kwargs.get("s_aux"), kwargs.get("position_bias"), slot.handle,
        kwargs.get("scaling"), kwargs.get("softcap"), kwargs.get("sliding_window"), kwargs.get("is_causal"),
    )  # fmt: skip


# As for `sparse_accel::attend`: a recorded graph would replay one call's decision for all.
@torch.library.custom_op("sparse_accel::attend_sequence", mutates_args=(), tags=torch.Tag.cudagraph_unsafe)
def _attend_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
    bias: Tensor | None,
    handle: Tensor,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    causal: bool | None,
) -> Tensor:
    slot = slot_at(handle)
    assert isinstance(slot, SequenceSlot)
    kwargs: dict[str, Any] = {
        "scaling": scale,
        "softcap": softcap,
        "sliding_window": window,
        "is_causal": causal,
    }
    kwargs |= {"s_aux": sinks, "position_bias": bias}
    return slot.run(slot.module, q, k, v, mask, kwargs)[0]


@_attend_op.register_fake
def _attend_fake(q: Tensor, k: Tensor, v: Tensor, *rest: object) -> Tensor:
    batch, heads, q_len, _ = q.shape
    return q.new_empty(batch, q_len, heads, v.shape[-1])
