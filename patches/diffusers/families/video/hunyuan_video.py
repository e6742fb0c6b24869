"""HunyuanVideo, text to video and image to video: video tokens, then text with its padding last.

The forward itself builds the mask so that each sample's hidden keys are the end of the sequence. The token
refiner of the text runs the same processor on a few hundred tokens and stays as it is.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0
from torch import nn

from accel.patches.diffusers.reading import latent_grid, lengths, modules_like
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted
from accel.patches.grid import TokenGrid

TEXT_PADDING = "last"


class RoutedHunyuanVideoProcessor(DispatchingProcessor, HunyuanVideoAttnProcessor2_0):  # type: ignore[misc]
    """HunyuanVideo joint attention with a slot."""

    __call__ = rerouted(HunyuanVideoAttnProcessor2_0.__call__)


PROCESSORS: dict[type, type] = {HunyuanVideoAttnProcessor2_0: RoutedHunyuanVideoProcessor}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the dual-stream blocks, then of the single-stream blocks."""
    return modules_like(model, "transformer_blocks.*.attn", "single_transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W] and its text [B, T, C]."""
    side = model.config.patch_size
    return latent_grid(
        kwargs["hidden_states"],
        (model.config.patch_size_t, side, side),
        text_tokens=lengths(kwargs["encoder_hidden_states"]),
    )
