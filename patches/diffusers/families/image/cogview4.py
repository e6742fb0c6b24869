"""CogView 4: text, then the tokens of one image."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_cogview4 import CogView4AttnProcessor
from torch import nn

from accel.patches.diffusers.reading import lengths, modules_like
from accel.patches.diffusers.seated_processor import SeatedProcessor, rerouted
from accel.patches.grid import TokenGrid


class SeatedCogView4Processor(SeatedProcessor, CogView4AttnProcessor):
    """CogView 4 joint attention with a seat."""

    __call__ = rerouted(CogView4AttnProcessor.__call__)


SEATED: dict[type, type] = {CogView4AttnProcessor: SeatedCogView4Processor}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = (size // model.config.patch_size for size in kwargs["hidden_states"].shape[2:])
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(1, height, width, text_tokens=text, text_first=True)
