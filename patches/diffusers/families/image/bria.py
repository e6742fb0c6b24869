"""Bria 3.2: text, then the tokens of one image."""

from __future__ import annotations

from diffusers.models.transformers.transformer_bria import BriaAttnProcessor

from accel.patches.diffusers.families.image.positions import joint_attention, positioned_grid
from accel.patches.diffusers.seated_processor import DispatchingProcessor, rerouted


class SeatedBriaProcessor(DispatchingProcessor, BriaAttnProcessor):  # type: ignore[misc]
    """Bria joint attention with a seat."""

    __call__ = rerouted(BriaAttnProcessor.__call__)


SEATED: dict[type, type] = {BriaAttnProcessor: SeatedBriaProcessor}

attention_modules = joint_attention
read_grid = positioned_grid
