"""The way a slot is reached when a model's sequence is spread over processes.

diffusers exchanges tokens for heads, calls a forward operator on the whole sequence of the process's heads,
and exchanges back. That operator is the slot; all communication stays diffusers'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_dispatch import _templated_context_parallel_attention, dispatch_attention_fn
from torch import Tensor

from accel.patches.observers import records_gradients
from accel.patches.slot import attend, slot_at


@dataclass(frozen=True)
class ParallelRoute:
    """What travels in the place of a processor's parallel configuration: it, and the number of its slot."""

    config: Any
    handle: Tensor

    @property
    def context_parallel_config(self) -> Any:
        return self.config.context_parallel_config


def is_ring(config: Any) -> bool:
    """Whether a process never sees all tokens, with or without an exchange of heads."""
    return config is not None and config.context_parallel_config.ring_degree > 1


def attend_in_parallel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    enable_gqa: bool,
    route: ParallelRoute,
) -> Tensor:
    """This process's tokens of all heads, [B, m, H, D], through a slot, which sees all tokens of its heads.

    Around a ring, and where gradients are recorded, the slot is called with this process's tokens, and its
    dense attention is diffusers' parallel one.

    Raises:
        ValueError: if the heads cannot be shared so.
    """
    if is_ring(route.config):
        return attend(query, key, value, mask, route.handle)
    if records_gradients(query, key, value):
        if torch.compiler.is_compiling():
            return dispatch_attention_fn(query, key, value, attn_mask=mask, parallel_config=route.config)
        slot: Any = slot_at(route.handle)
        return slot.fn(
            query, key, value, mask, lambda: slot.dense.over(route.config, query, key, value, mask)
        )
    require_shares(query.shape[2], route.context_parallel_config)
    return _templated_context_parallel_attention(
        query,
        key,
        value,
        mask,
        enable_gqa=enable_gqa,
        forward_op=_attend_to_all,
        backward_op=None,
        _parallel_config=route,  # type: ignore[arg-type]
    )


def require_shares(heads: int, parallel: Any) -> None:
    """Refuse, with the reason, heads that diffusers' exchange cannot share."""
    ranks = parallel.ulysses_degree
    if heads % ranks and not parallel.ulysses_anything:
        raise ValueError(
            f"{heads} heads cannot be shared equally by {ranks} processes; "
            "ContextParallelConfig(..., ulysses_anything=True) shares them unequally"
        )
    if heads <= -(-heads // ranks) * (ranks - 1):
        raise ValueError(f"{heads} heads leave one of {ranks} processes without any: take fewer processes")


def _attend_to_all(
    ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *plain: Any, **options: Any
) -> Tensor:
    """diffusers' forward operator: all tokens of this process's heads, [B, M, h, D]."""
    return attend(query, key, value, mask, options["_parallel_config"].handle)
