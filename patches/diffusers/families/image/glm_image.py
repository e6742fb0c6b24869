"""GLM-Image: text, then the tokens of one image.

With images to follow, their keys and values are kept from forwards of their own: a call then has more keys
than queries, and stays dense.
"""

from __future__ import annotations

from diffusers.models.transformers.transformer_glm_image import GlmImageAttnProcessor

from accel.patches.diffusers.families.image.text_then_latent import block_attention, latent_grid_after_text
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted


class RoutedGlmImageProcessor(DispatchingProcessor, GlmImageAttnProcessor):  # type: ignore[misc]
    """GLM-Image joint attention with a slot."""

    __call__ = rerouted(GlmImageAttnProcessor.__call__)


PROCESSORS: dict[type, type] = {GlmImageAttnProcessor: RoutedGlmImageProcessor}

attention_modules = block_attention
read_grid = latent_grid_after_text
