"""Bria 3.2: text, then the tokens of one image."""

from __future__ import annotations

from diffusers.models.transformers.transformer_bria import BriaAttnProcessor

from accel.patches.diffusers.families.image.flux import read_grid
from accel.patches.diffusers.reading import joint_attention
from accel.patches.diffusers.routed_processor import routed

PROCESSORS = routed(BriaAttnProcessor)
attention_modules = joint_attention

__all__ = ["PROCESSORS", "attention_modules", "read_grid"]
