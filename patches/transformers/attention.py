"""The attention function that transformers calls in accelerated layers.

Only those layers are given its name, in their own configuration (`install.py`). The model's is not changed:
masks are made, and questions answered, as in the stock model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from accel.patches.observers import records_gradients
from accel.patches.transformers.call import unknown_keyword
from accel.patches.transformers.slot import SequenceSlot, attend_sequence

NAME = "accel_block_sparse"


def block_sparse(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The function called `NAME`: what is installed at the module.

    The model's own where code is traced that the slot's operator could not serve, or that is to be exported.
    """
    slot: SequenceSlot = vars(module)["accel_slot"]
    if not torch.compiler.is_compiling():
        return slot.run(module, query, key, value, attention_mask, kwargs)
    differentiated = kwargs.get("dropout") or records_gradients(query, key, value)
    if differentiated or unknown_keyword(kwargs) or torch.compiler.is_exporting():
        return slot.dense(module, query, key, value, attention_mask, **kwargs)
    return attend_sequence(slot, query, key, value, attention_mask, kwargs), None


def register() -> None:
    """Make transformers know the name; done when a model is first accelerated, not at import.

    A name cannot be removed without breaking models still set to it, so it stays.
    """
    AttentionInterface.register(NAME, block_sparse)
