"""What image models share that are given the position of every token, text first."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from accel.patches.diffusers.reading import lengths, modules_like, raster_size
from accel.patches.grid import TokenGrid


def joint_attention(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the dual-stream blocks, then of the single-stream blocks."""
    return modules_like(model, "transformer_blocks.*.attn", "single_transformer_blocks.*.attn")


def positioned_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its image positions [N, 3 or 4] and its text [B, T, C].

    Raises:
        ValueError: if the positions do not list one full grid row by row. Reading them costs one device read.
    """
    ids = kwargs["img_ids"]
    frames, height, width = raster_size((ids[0] if ids.ndim == 3 else ids)[:, :3])
    return TokenGrid(
        frames, height, width, text_tokens=lengths(kwargs["encoder_hidden_states"]), text_first=True
    )


def unit_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of a forward that takes it in [0, 1]."""
    return kwargs["timestep"] * 1000
