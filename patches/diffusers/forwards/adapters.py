"""Adapters: the present state of a model's LoRA adapters, to notice when they change."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

SAMPLES = 4


def adapter_state(model: Any) -> Hashable:
    """Something that differs once adapters are added, scaled, fused, switched off or hot-swapped; () without.

    A hot swap writes new weights into the old tensors and leaves no other mark, so a few weights are summed:
    this waits for the device.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        return ()
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    samples = layers[:: max(len(layers) // SAMPLES, 1)]
    return tuple(map(layer_state, layers)), tuple(total for layer in samples for total in weight_sums(layer))


def adapter_names(model: Any) -> tuple[str, ...]:
    """The names of the adapters in use; () without."""
    if not getattr(model, "_hf_peft_config_loaded", False):
        return ()
    return tuple(model.active_adapters())


def layer_state(layer: Any) -> Hashable:
    """One layer's adapters: which are active, merged and switched off, and how they are scaled."""
    scaling = tuple((name, scale_state(scale)) for name, scale in getattr(layer, "scaling", {}).items())
    return tuple(layer.active_adapters), tuple(layer.merged_adapters), layer.disable_adapters, scaling


def scale_state(scale: float | Tensor) -> Hashable:
    """A scale by value; one prepared for hot swaps, which is a tensor, by how often it was written."""
    return (id(scale), scale._version) if isinstance(scale, Tensor) else float(scale)


def weight_sums(layer: Any) -> list[float]:
    """The absolute sums of one layer's second factors; nothing for weights out of reach."""
    weights = [factor.weight for factor in getattr(layer, "lora_B", {}).values()]
    return [float(weight.detach().float().abs().sum()) for weight in weights if not weight.is_meta]
