"""The causal self-attention modules of transformers models, found by what they are and not by class."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from accel.patches.site import Site
from accel.patches.transformers.interface import interface_of


def is_language_model(model: nn.Module) -> bool:
    """Whether this is a transformers model with causal attention that can be switched."""
    return (
        isinstance(model, PreTrainedModel)
        and model._can_set_attn_implementation()
        and bool(attention_modules(model))
    )


def attention_modules(model: nn.Module) -> list[tuple[str, Any]]:
    """The causal self-attention modules by dotted name, in the order in which the model holds them.

    Bidirectional layers (encoders, vision towers), cross-attention, linear attention, and classes that look
    no function up are not among them.
    """
    return [
        (name, module)
        for name, module in model.named_modules()
        if getattr(module, "is_causal", False) is True
        and getattr(module, "layer_idx", None) is not None
        and interface_of(module) is not None
    ]


def find_sites(model: Any, component: str = "") -> list[Site]:
    """The sites of a language model, in call order: its causal layers that work the same under another name.

    Warns of layers that do not.

    Raises:
        TypeError: if no layer does.
    """
    found = attention_modules(model)
    asking = [(name, module) for name, module in found if asks_for_its_name(module)]
    if len(asking) == len(found):
        raise TypeError(f"{type(model).__name__} cannot be accelerated: {_why_left_alone(asking)}")
    if asking:
        warnings.warn(f"left alone: {_why_left_alone(asking)}", stacklevel=4)
    kept = [(name, module) for name, module in found if not asks_for_its_name(module)]
    windowed = [has_window(module) for _, module in kept]
    seeing = windowed.count(False)
    return [
        Site(
            name, component, module, max(min(windowed[:place].count(False), seeing - 1), 0), max(seeing, 1),
            heads(module), causal=True, windowed=windowed[place],
        )
        for place, (name, module) in enumerate(kept)
    ]  # fmt: skip


def has_window(module: Any) -> bool:
    """Whether a layer has a sliding window."""
    config = stock_config(module)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and module.layer_idx < len(kinds):
        return kinds[module.layer_idx] == "sliding_attention"
    return getattr(module, "sliding_window", getattr(config, "sliding_window", None)) is not None


def asks_for_its_name(module: Any) -> bool:
    """Whether a layer computes something else under an implementation that it does not know by name."""
    interface = interface_of(module)
    assert interface is not None
    name = stock_config(module)._attn_implementation
    return not interface.is_alike(name if name in ("sdpa", "eager") else "sdpa", "")


def stock_config(module: Any) -> Any:
    """The configuration that an attention module shares with its model, accelerated or not."""
    slot = vars(module).get("accel_slot")
    return module.config if slot is None else slot.stock


def _why_left_alone(asking: list[tuple[str, Any]]) -> str:
    classes = ", ".join(sorted({type(module).__name__ for _, module in asking}))
    names = ", ".join(sorted({stock_config(module)._attn_implementation for _, module in asking}))
    return (
        f"{classes} computes something else under any implementation except those it knows, {names} among "
        "them (often its own sparse attention, as in DeepSeek-V3.2), and keeps computing that"
    )


def heads(module: Any) -> int:
    """Query heads of an attention module."""
    return getattr(module, "num_heads", None) or module.config.num_attention_heads
