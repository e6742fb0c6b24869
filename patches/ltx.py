"""LTX-Video and LTX-2: video tokens only; of LTX-2's six attentions a block, the video's own.

Their latents come packed, so the forward is told frames, rows and columns; a pipeline that passes coordinates
instead (conditioning on further frames) gives no grid, and its calls stay dense.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_ltx import LTXVideoAttnProcessor
from diffusers.models.transformers.transformer_ltx2 import (
    LTX2AudioVideoAttnProcessor,
    LTX2PerturbedAttnProcessor,
)
from torch import nn

from accel.patches.grid import TokenGrid
from accel.patches.reading import modules_like
from accel.patches.seated_processor import DispatchingProcessor, rerouted


class SeatedLTXProcessor(DispatchingProcessor, LTXVideoAttnProcessor):  # type: ignore[misc]
    """LTX-Video self-attention with a seat."""

    __call__ = rerouted(LTXVideoAttnProcessor.__call__)


class SeatedLTX2Processor(DispatchingProcessor, LTX2AudioVideoAttnProcessor):  # type: ignore[misc]
    """LTX-2 video self-attention with a seat."""

    __call__ = rerouted(LTX2AudioVideoAttnProcessor.__call__)


class SeatedLTX2PerturbedProcessor(DispatchingProcessor, LTX2PerturbedAttnProcessor):  # type: ignore[misc]
    """LTX-2 video self-attention of a perturbed model, with a seat."""

    __call__ = rerouted(LTX2PerturbedAttnProcessor.__call__)


SEATED: dict[type, type] = {
    LTXVideoAttnProcessor: SeatedLTXProcessor,
    LTX2AudioVideoAttnProcessor: SeatedLTX2Processor,
    LTX2PerturbedAttnProcessor: SeatedLTX2PerturbedProcessor,
}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The video self-attention of the blocks."""
    return modules_like(model, "transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid that one forward is told, in latent units; both models cut patches of 1."""
    return TokenGrid(kwargs["num_frames"], kwargs["height"], kwargs["width"])
