"""The causal self-attention modules of transformers models, found by what they are and not by class."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from accel.patches.site import Site


def is_language_model(model: nn.Module) -> bool:
    """Whether this is a transformers model with causal attention that can be switched."""
    return (
        isinstance(model, PreTrainedModel)
        and model._can_set_attn_implementation()
        and bool(attention_modules(model))
    )


def attention_modules(model: nn.Module) -> list[tuple[str, Any]]:
    """The causal self-attention modules by dotted name, in the order they stand in the model.

    Bidirectional layers (encoders, vision towers), cross-attention and linear attention are not among them.
    """
    return [
        (name, module)
        for name, module in model.named_modules()
        if getattr(module, "is_causal", False) is True
        and getattr(module, "layer_idx", None) is not None
        and "Attention" in type(module).__name__
    ]


def find_sites(model: Any, component: str = "") -> list[Site]:
    """The sites of a language model, in call order."""
    found = attention_modules(model)
    return [
        Site(name, component, module, layer, len(found), heads(module), causal=True)
        for layer, (name, module) in enumerate(found)
    ]


def heads(module: Any) -> int:
    """Query heads of an attention module."""
    return getattr(module, "num_heads", None) or module.config.num_attention_heads
