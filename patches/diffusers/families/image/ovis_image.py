"""Ovis-Image: text, then the tokens of one image."""

from __future__ import annotations

from diffusers.models.transformers.transformer_ovis_image import OvisImageAttnProcessor

from accel.patches.diffusers.families.image.positions import joint_attention, positioned_grid, unit_timestep
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted


class RoutedOvisImageProcessor(DispatchingProcessor, OvisImageAttnProcessor):  # type: ignore[misc]
    """Ovis-Image joint attention with a slot."""

    __call__ = rerouted(OvisImageAttnProcessor.__call__)


PROCESSORS: dict[type, type] = {OvisImageAttnProcessor: RoutedOvisImageProcessor}

attention_modules = joint_attention
read_grid = positioned_grid
read_timestep = unit_timestep
