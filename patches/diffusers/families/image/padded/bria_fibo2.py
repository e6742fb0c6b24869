"""Bria FIBO 2: a gist of the text, then the tokens of one image, then those of its reference images.

Where the prompts of a batch have gists of different length the gist is last and its padding is masked.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_bria_fibo2 import BriaFibo2AttnProcessor, compute_gist_count
from torch import Tensor

from accel.patches.diffusers.reading import modules_named, unit_timestep
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "last"
PROCESSORS = routed(BriaFibo2AttnProcessor)
read_timestep = unit_timestep
# The joint attention of the layers; the image's refiner and cross-attention are not changed.
attention_modules = modules_named("layers.*.attention")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W], the lengths of its text and its conditions.

    Reading the lengths costs one device read, as in the model itself.
    """
    side = model.config.patch_size
    height, width = (size // side for size in kwargs["hidden_states"].shape[2:])
    conditions = sum((x.shape[2] // side) * (x.shape[3] // side) for x in kwargs.get("context_latents") or ())
    gists = gist_tokens(model.config, kwargs["encoder_hidden_states"], kwargs.get("encoder_attention_mask"))
    if min(gists) == max(gists):
        return TokenGrid(1, height, width, text_tokens=conditions, lead_tokens=gists[0])
    return TokenGrid(1, height, width, text_tokens=conditions + max(gists))


def gist_tokens(config: Any, text: Tensor, mask: Tensor | None) -> list[int]:
    """The gist tokens of each sample, as the model counts them."""
    lengths = [text.shape[2]] * len(text) if mask is None else mask.sum(dim=1).tolist()
    return compute_gist_count(
        lengths,
        min_gist=config.min_num_gist_tokens,
        max_gist=config.max_num_gist_tokens,
        gist_step=config.gist_step,
        min_text_len=config.gist_min_text_len,
        max_text_len=config.gist_max_text_len,
    )
