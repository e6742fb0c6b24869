"""Models: which parts of a pipeline, or which bare model, can be accelerated, and where their attention is.

Only libraries that are already loaded are asked: their objects cannot exist without them.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from accel.patches.diffusers import family
from accel.patches.diffusers.family import family_of
from accel.patches.site import Site

PIPELINE_COMPONENTS = ("transformer", "transformer_2", "transformer_ref", "unet")


def is_language_model(model: nn.Module) -> bool:
    """Whether a model is a causal one of transformers. Those need no family: they all call one interface."""
    if "transformers" not in sys.modules:
        return False
    from accel.patches.transformers import sites

    return sites.is_language_model(model)


def unwrap(model: Any) -> Any:
    """The module inside `torch.compile`'s wrapper, or the object itself."""
    return getattr(model, "_orig_mod", model)


def supported_models(pipe_or_model: Any) -> dict[str, nn.Module]:
    """The supported models of a pipeline by component name, or a bare one under the empty name."""
    bare = unwrap(pipe_or_model)
    if isinstance(bare, nn.Module):
        return {"": bare} if family_of(bare) or is_language_model(bare) else {}
    parts = {name: unwrap(getattr(pipe_or_model, name, None)) for name in PIPELINE_COMPONENTS}
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module) and family_of(part)}


def find_sites(model: nn.Module, component: str = "") -> list[Site]:
    """The attention modules of a supported model, in call order.

    Raises:
        ValueError: if the model is not supported, or only processors of others run its attention.
    """
    if is_language_model(model):
        from accel.patches.transformers import sites

        return sites.find_sites(model, component)
    return family.find_sites(model, component)
