"""Qwen-Image: text, whose padding is masked, then the tokens of one image, or of several of one size."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0
from torch import Tensor, nn

from accel.patches.diffusers.reading import lengths, modules_like
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted
from accel.patches.grid import TokenGrid

TEXT_PADDING = "anywhere"


class RoutedQwenImageProcessor(DispatchingProcessor, QwenDoubleStreamAttnProcessor2_0):  # type: ignore[misc]
    """Qwen-Image joint attention with a slot."""

    __call__ = rerouted(QwenDoubleStreamAttnProcessor2_0.__call__)


PROCESSORS: dict[type, type] = {QwenDoubleStreamAttnProcessor2_0: RoutedQwenImageProcessor}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn")


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


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of one forward, which this model takes in [0, 1]."""
    return kwargs["timestep"] * 1000
