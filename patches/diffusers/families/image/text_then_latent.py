"""What image models share that join text and a latent image in one attention of each block, text first."""

from __future__ import annotations

from typing import Any

from torch import nn

from accel.patches.diffusers.reading import lengths, modules_like
from accel.patches.grid import TokenGrid


def block_attention(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The attention of the blocks over text and image."""
    return modules_like(model, "transformer_blocks.*.attn1")


def latent_grid_after_text(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W] and its text [B, T, C]."""
    height, width = (size // model.config.patch_size for size in kwargs["hidden_states"].shape[2:])
    text = lengths(kwargs["encoder_hidden_states"])
    return TokenGrid(1, height, width, text_tokens=text, text_first=True)
