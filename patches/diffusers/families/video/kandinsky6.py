"""Kandinsky 6: video tokens; sound has its own blocks, and both are read in cross-attention."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_kandinsky6 import Kandinsky6AttnProcessor

from accel.patches.diffusers.reading import latent_grid, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(Kandinsky6AttnProcessor)
attention_modules = modules_named("visual_transformer_blocks.*.video_dec_block.self_attention")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, F, H, W, C] and the type of each frame [B, F].

    A frame to begin with follows the video, by its type; it counts as text. Reading types costs one device
    read.
    """
    grid = latent_grid(kwargs["hidden_states"], model.config.patch_size, axes=(1, 2, 3))
    types = kwargs.get("visual_token_type_ids")
    clean = 0 if types is None else int((types[0] != 0).sum())
    frames = grid.frames - clean
    return TokenGrid(frames, grid.height, grid.width, text_tokens=clean * grid.frame_tokens)
