"""Qwen-Image: text, whose padding is masked, then the tokens of one or more images."""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Any

from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0

from accel.patches.diffusers.reading import lengths, modules_named, unit_timestep
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "anywhere"
PROCESSORS = routed(QwenDoubleStreamAttnProcessor2_0)
attention_modules = modules_named("transformer_blocks.*.attn")
read_timestep = unit_timestep


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its image shapes and its text [B, T, C].

    Images of the first one's size are further frames of it; what follows of another size is kept whole.

    Raises:
        ValueError: if the samples' images differ in size.
    """
    samples = [sample if isinstance(sample, list) else [sample] for sample in kwargs["img_shapes"]]
    shapes, *others = {tuple(map(tuple, sample)) for sample in samples}
    if others:
        raise ValueError(f"samples with images of different size: {sorted([shapes, *others])}")
    frames, height, width = shapes[0]
    same = len(list(takewhile(lambda shape: shape == shapes[0], shapes)))
    return TokenGrid(
        frames * same,
        height,
        width,
        text_tokens=lengths(kwargs["encoder_hidden_states"]),
        text_first=True,
        tail_tokens=sum(map(math.prod, shapes[same:])),
    )
