"""Qwen-Image 2.1: a prompt with the images it speaks of, then the tokens of one image.

Each token of the prompt sees those before it, and each image of it sees itself: these calls are short and
stay dense. The generated image's queries see every key; those of the prompt are cached after the first step.
"""

from __future__ import annotations

import math
from typing import Any

from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21AttnProcessor
from torch import Tensor

from accel.patches.diffusers.filled_queries import FillingProcessor
from accel.patches.diffusers.reading import modules_named, unit_timestep
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "anywhere"


class WholeSequenceProcessor(FillingProcessor):
    """Mixin in front of a stock processor that calls attention for parts of its prompt as well."""

    @staticmethod
    def least_keys(attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> int:
        return hidden_states.shape[1]


PROCESSORS = routed(QwenImage21AttnProcessor, mixin=WholeSequenceProcessor)
attention_modules = modules_named("transformer_blocks.*.attn")
read_timestep = unit_timestep


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from the shape of its last image; a slot of the prompt is 2 x 2 tokens."""
    frames, height, width = kwargs["img_shapes"][0][-1]
    image_tokens = kwargs["hidden_states"].shape[1]
    words = kwargs["img_mask"].shape[1] - image_tokens // 4
    before = words + image_tokens - math.prod((frames, height, width))
    return TokenGrid(frames, height, width, text_tokens=before, text_first=True)
