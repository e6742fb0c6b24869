"""LongCat-Image: text, then the tokens of one image, or of an image and the one it edits."""

from __future__ import annotations

from diffusers.models.transformers.transformer_longcat_image import LongCatImageAttnProcessor

from accel.patches.diffusers.families.image.positions import joint_attention, positioned_grid, unit_timestep
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted


class RoutedLongCatImageProcessor(DispatchingProcessor, LongCatImageAttnProcessor):  # type: ignore[misc]
    """LongCat-Image joint attention with a slot."""

    __call__ = rerouted(LongCatImageAttnProcessor.__call__)


PROCESSORS: dict[type, type] = {LongCatImageAttnProcessor: RoutedLongCatImageProcessor}

attention_modules = joint_attention
read_grid = positioned_grid
read_timestep = unit_timestep
