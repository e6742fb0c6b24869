"""Qwen-Image: text, whose padding is masked, then the tokens of one image, or of several of one size."""

from __future__ import annotations

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

    Raises:
        ValueError: if its images differ in size.
    """
    samples = [sample if isinstance(sample, list) else [sample] for sample in kwargs["img_shapes"]]
    shapes = {tuple(shape) for sample in samples for shape in sample}
    if len(shapes) != 1:
        raise ValueError(f"images of different size: {sorted(shapes)}")
    ((frames, height, width),) = shapes
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(frames * len(samples[0]), height, width, text_tokens=text, text_first=True)
