"""CogView 4: text, then the tokens of one image."""

from __future__ import annotations

from diffusers.models.transformers.transformer_cogview4 import CogView4AttnProcessor

from accel.patches.diffusers.families.image.text_then_latent import block_attention, latent_grid_after_text
from accel.patches.diffusers.routed_processor import RoutedProcessor, rerouted


class RoutedCogView4Processor(RoutedProcessor, CogView4AttnProcessor):
    """CogView 4 joint attention with a slot."""

    __call__ = rerouted(CogView4AttnProcessor.__call__)


PROCESSORS: dict[type, type] = {CogView4AttnProcessor: RoutedCogView4Processor}

attention_modules = block_attention
read_grid = latent_grid_after_text
