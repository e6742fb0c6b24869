"""SequenceCall: one attention call of a language model, and what it asks for beyond causal attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from accel.patches.transformers.mask import Visible, read_visible, visible_keys
from accel.patches.transformers.past import Past

HONOURED = frozenset(
    {
        "dropout",
        "is_causal",
        "output_attentions",
        "position_bias",
        "s_aux",
        "scaling",
        "sliding_window",
        "softcap",
    }
)
# Of the model's forward and its loss, handed on with the rest. Positions have gone into queries, keys and the
# mask.
PASSED_ON = frozenset(
    {
        "cache_position",
        "ignore_index",
        "num_items_in_batch",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "shift_labels",
        "use_cache",
    }
)


def unknown_keyword(kwargs: dict[str, Any]) -> str | None:
    """The first keyword of an attention call that says something nobody here knows; None without any."""
    return next(
        (
            name
            for name, value in kwargs.items()
            if value is not None and name not in HONOURED and name not in PASSED_ON
        ),
        None,
    )


@dataclass(frozen=True)
class SequenceCall:
    """The arguments of one call, after rotary embedding and after the cache was updated.

    Args:
        q: [B, H, M, D].
        k: [B, Hkv, N, D].
        v: [B, Hkv, N, Dv].
        mask: bool or additive [B, 1, M, N], or None.
        scale: of the logits; None is 1 / sqrt(D).
        causal: whether the layer is causal without a mask.
        window: tokens a query sees at most, itself included; None is all.
        softcap: bound of the logits; None if unbounded.
        sinks: a logit for each head that takes part in the softmax without a value (`s_aux`), [H], or None.
        bias: added to the logits (`position_bias`), or None.
        dropout: of the probabilities.
        wants_weights: whether the caller wants the probabilities returned.
        unknown: a keyword that the model hands to its attention and nobody here knows; None without one.
        past: the cache that the call continues; None if there is no cache or it is not known.
        vision: bool [B, M], which queries are of images or videos; None if that is not known.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    scale: float | None = None
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | None = None
    dropout: float = 0.0
    wants_weights: bool = False
    unknown: str | None = None
    past: Past | None = None
    vision: Tensor | None = None

    @property
    def unlike_plain_attention(self) -> str | None:
        """What a plain causal kernel would get wrong or leave out; None if nothing. Reads no device."""
        if self.wants_weights:
            return "attention weights are asked for"
        if self.unknown is not None:
            return f"asks for {self.unknown}, which block-sparse attention does not support"
        if not self.causal:
            return "not causal"
        if self.softcap is not None:
            return "logit softcap"
        if self.bias is not None:
            return "position bias"
        if self.dropout:
            return "dropout"
        if self.v.shape[3] != self.k.shape[3]:
            return f"values of {self.v.shape[3]} and keys of {self.k.shape[3]} numbers a head"
        return None

    @property
    def scaled_q(self) -> Tensor:
        """Queries whose logits under 1 / sqrt(D), which policies assume, are those of q under `scale`."""
        usual = 1 / math.sqrt(self.q.shape[3])
        if self.scale is None or math.isclose(self.scale, usual, rel_tol=1e-6):
            return self.q
        return self.q * (self.scale / usual)

    @property
    def cut_by_window(self) -> bool:
        """Whether the window hides some key from some query."""
        return self.window is not None and self.k.shape[2] > self.window

    def visible(self) -> Visible | str:
        """What the queries see, or why only dense attention can honour it. May read the mask."""
        window = self.window if self.cut_by_window else None
        return read_visible(self.mask, self.q.shape[2], self.k.shape[2], window)

    def visible_keys(self) -> Tensor | str | None:
        """Bool [B, M, N], the keys that each query sees, or why that is not known. Reads no device."""
        return visible_keys(self.mask, self.q.shape[2], self.k.shape[2])


class SequenceFn(Protocol):
    """Attention of one layer of a language model."""

    def __call__(self, call: SequenceCall, dense: Callable[[], Tensor]) -> Tensor:
        """-> [B, M, H, Dv]; `dense()` is the model's own attention."""
        ...
