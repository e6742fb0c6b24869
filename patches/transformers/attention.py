"""The attention functions that transformers calls in accelerated language models.

Two names, because what a model's dense calls run on must be known to layers that have no seat as well:
cross-attention, and layers a recipe leaves alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from accel.patches.observers import records_gradients
from accel.patches.transformers.dense import DenseForward, eager, sdpa
from accel.patches.transformers.paged import refuse_paged
from accel.patches.transformers.seat import SequenceSeat, attend_sequence

NAME = "accel_block_sparse"
EAGER_NAME = "accel_block_sparse_eager"
DENSE: dict[str, DenseForward] = {NAME: sdpa, EAGER_NAME: eager}


def over_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The function called `NAME`."""
    return _route(sdpa, module, query, key, value, attention_mask, kwargs)


def over_eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The function called `EAGER_NAME`."""
    return _route(eager, module, query, key, value, attention_mask, kwargs)


def register() -> None:
    """Make transformers know the names; done when a model is first accelerated, not at import.

    There is no way to take a name out again that spares models still set to it, so they stay.
    """
    for name, function in ((NAME, over_sdpa), (EAGER_NAME, over_eager)):
        AttentionInterface.register(name, function)
        # Without a mask function under the same name, masks would silently be left out.
        AttentionMaskInterface.register(name, sdpa_mask)


def _route(
    dense: DenseForward,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    refuse_paged(kwargs.values())
    seat: SequenceSeat | None = getattr(module, "accel_seat", None)
    compiling = torch.compiler.is_compiling()
    if seat is None or (compiling and (kwargs.get("dropout") or records_gradients(query, key, value))):
        return dense(module, query, key, value, mask, **kwargs)
    if compiling:
        return attend_sequence(seat, query, key, value, mask, kwargs), None
    return seat.run(module, query, key, value, mask, kwargs)
