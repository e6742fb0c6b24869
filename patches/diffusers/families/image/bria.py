"""Bria 3.2: text, then the tokens of one image."""

from __future__ import annotations

from diffusers.models.transformers.transformer_bria import BriaAttnProcessor

from accel.patches.diffusers.families.image.positions import joint_attention, positioned_grid
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted


class RoutedBriaProcessor(DispatchingProcessor, BriaAttnProcessor):  # type: ignore[misc]
    """Bria joint attention with a slot."""

    __call__ = rerouted(BriaAttnProcessor.__call__)


PROCESSORS: dict[type, type] = {BriaAttnProcessor: RoutedBriaProcessor}

attention_modules = joint_attention
read_grid = positioned_grid
