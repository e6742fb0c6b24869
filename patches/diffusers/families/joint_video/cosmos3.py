"""Cosmos 3: text, then video tokens, then those of sound or action if there are any; one sample a forward.

Text tokens attend among themselves, causally, in a separate call, which is short and stays PyTorch's. In
the other call the queries of video and sound attend to all keys, those of the text first.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_cosmos3 import Cosmos3AttnProcessor
from torch import Tensor

from accel.patches.diffusers.filled_queries import FillingProcessor
from accel.patches.diffusers.reading import modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(Cosmos3AttnProcessor, mixin=FillingProcessor)
attention_modules = modules_named("layers.*.self_attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from the token shapes of its videos; several of one size follow one another.

    Raises:
        ValueError: if its videos differ in size.
    """
    shapes = kwargs["vision_token_shapes"]
    sizes = {tuple(shape[1:]) for shape in shapes}
    if len(sizes) != 1:
        raise ValueError(f"videos of different size: {sorted(sizes)}")
    ((height, width),) = sizes
    frames, text = sum(shape[0] for shape in shapes), kwargs["und_len"]
    after = kwargs["sequence_length"] - text - frames * height * width
    return TokenGrid(frames, height, width, text_tokens=after, lead_tokens=text)


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timesteps of one forward's noisy tokens; 0 if it has no noisy tokens."""
    given = (kwargs.get(f"{kind}_timesteps") for kind in ("vision", "sound", "action"))
    noisy = [timesteps.flatten() for timesteps in given if timesteps is not None and timesteps.numel()]
    return torch.cat(noisy) if noisy else torch.zeros(1)
