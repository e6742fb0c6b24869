"""Kandinsky 5: video tokens only. Its models that were trained block-sparse are left alone."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_kandinsky import Kandinsky5AttnProcessor
from torch import nn

from accel.patches.diffusers.reading import latent_grid, modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(Kandinsky5AttnProcessor)


def attention_modules(model: Any) -> list[tuple[str, nn.Module]]:
    """The self-attention of the visual blocks.

    Raises:
        ValueError: if the model was trained with its own block-sparse attention.
    """
    if model.config.attention_type == "nabla":
        raise ValueError(
            "this Kandinsky 5 was trained with NABLA, which is block-sparse attention; keep that"
        )
    return modules_named("visual_transformer_blocks.*.self_attention")(model)


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, F, H, W, C]."""
    if kwargs.get("sparse_params") is not None:
        raise ValueError("tokens in NABLA's order")
    return latent_grid(kwargs["hidden_states"], model.config.patch_size, axes=(1, 2, 3))
