"""CogView 3 Plus: text, then the tokens of one image."""

from __future__ import annotations

from typing import Any

from torch import nn

from accel.patches.diffusers.families.video.cogvideox import SEATED
from accel.patches.diffusers.reading import lengths, modules_like
from accel.patches.grid import TokenGrid

__all__ = ["SEATED", "attention_modules", "read_grid"]


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = (size // model.config.patch_size for size in kwargs["hidden_states"].shape[2:])
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(1, height, width, text_tokens=text, text_first=True)
