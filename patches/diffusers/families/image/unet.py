"""UNets of Stable Diffusion and DreamLite: the picture is halved from block to block; text is read apart."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0
from diffusers.models.downsampling import Downsample2D
from diffusers.models.unets.unet_dreamlite import DreamLiteAttnProcessor2_0
from torch import Tensor, nn

from accel.patches.diffusers.reading import modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

PROCESSORS = routed(AttnProcessor2_0, FusedAttnProcessor2_0, DreamLiteAttnProcessor2_0)
CALL_ORDER = ("down_blocks", "mid_block", "up_blocks")


def attention_modules(model: nn.Module) -> list[tuple[str, Any]]:
    """Self-attention in call order; the model lists its middle last."""
    found: list[tuple[str, Any]] = modules_named("*.attentions.*.attn1")(model)
    plain = [(name, module) for name, module in found if not module.is_cross_attention]
    return sorted(plain, key=lambda one: CALL_ORDER.index(one[0].partition(".")[0]))


def halvings(model: Any, name: str) -> int:
    """How often the picture was halved before it comes to an attention module."""
    part, number = name.split(".")[:2]
    passed = list(model.down_blocks)
    if part != "mid_block":
        passed = passed[: int(number) if part == "down_blocks" else len(passed) - 1 - int(number)]
    return sum(block.downsamplers is not None for block in passed)


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent image [B, C, H, W], not halved yet.

    Raises:
        ValueError: if a block halves it by something else than the usual convolution, which rounds up.
    """
    for block in model.down_blocks:
        for half in block.downsamplers or ():
            if not isinstance(half, Downsample2D) or not half.use_conv or half.padding != 1:
                raise ValueError(f"pictures are made smaller by {type(half).__name__} in a way of its own")
    height, width = kwargs["sample"].shape[2:]
    return TokenGrid(1, height, width)


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of one forward, a tensor or a number."""
    return torch.as_tensor(kwargs["timestep"])
