"""Wan-Animate 2: the frames of a generated video, then those of the video it follows, out of a cache.

A reference frame is seen by one generated frame alone, the one that shows it: generated frames are one ahead.
The generated frames lie in a buffer with room for a whole segment, filled up to a multiple of 128, as do the
references; a frame's room that is left over is seen. The pass that fills the cache is a video by itself.
"""

from __future__ import annotations

import math
from typing import Any

from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2AttnProcessor

from accel.patches.diffusers.flex import FlexBehind
from accel.patches.diffusers.reading import latent_grid, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import Run, TokenGrid

PROCESSORS = routed(WanAnimate2AttnProcessor, mixin=FlexBehind)
attention_modules = modules_named("blocks.*.self_attn")


def is_preparation(kwargs: dict[str, Any]) -> bool:
    """Whether a forward fills the cache of references."""
    return bool(kwargs["kv_cache_mode"] == "extract")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent videos, [C, F, H, W] each, and the segment's size.

    Raises:
        ValueError: if the frames are smaller than those the segment has room for.
    """
    size = latent_grid(kwargs["hidden_states"][0], model.config.patch_size, axes=(1, 2, 3))
    if is_preparation(kwargs):
        return size
    frame, references = math.prod(kwargs["origin_area"]) // 256, kwargs["origin_len"] // 4 + 1
    if size.frame_tokens != frame:
        raise ValueError(f"frames of {size.frame_tokens} tokens with room for {frame}")
    generated = references + 1
    runs = (
        *(Run(frame, number, 0) for number in range(generated)),
        Run.padding(-generated * frame % 128),
        *(Run(frame, -1, number + 1, number + 1) for number in range(references)),
        Run.padding(-references * frame % 128),
    )
    tail = sum(run.tokens for run in runs) - size.tokens
    return TokenGrid(size.frames, size.height, size.width, tail_tokens=tail, runs=runs)
