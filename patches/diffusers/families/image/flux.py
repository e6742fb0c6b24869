"""Flux and Flux.2: text, then the tokens of one or more images, told by the position of every token."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor
from torch import Tensor, nn

from accel.patches.diffusers.reading import lengths, modules_like, raster_size
from accel.patches.diffusers.seated_processor import DispatchingProcessor, rerouted
from accel.patches.grid import TokenGrid


class SeatedFluxProcessor(DispatchingProcessor, FluxAttnProcessor):  # type: ignore[misc]
    """Flux joint attention with a seat."""

    __call__ = rerouted(FluxAttnProcessor.__call__)


class SeatedFlux2Processor(DispatchingProcessor, Flux2AttnProcessor):  # type: ignore[misc]
    """Flux.2 joint attention with a seat."""

    __call__ = rerouted(Flux2AttnProcessor.__call__)


class SeatedFlux2ParallelProcessor(DispatchingProcessor, Flux2ParallelSelfAttnProcessor):  # type: ignore[misc]
    """Flux.2 attention of a single-stream block with a seat."""

    __call__ = rerouted(Flux2ParallelSelfAttnProcessor.__call__)


SEATED: dict[type, type] = {
    FluxAttnProcessor: SeatedFluxProcessor,
    Flux2AttnProcessor: SeatedFlux2Processor,
    Flux2ParallelSelfAttnProcessor: SeatedFlux2ParallelProcessor,
}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The joint attention of the dual-stream blocks, then of the single-stream blocks."""
    return modules_like(model, "transformer_blocks.*.attn", "single_transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its image positions [N, 3 or 4] and its text [B, T, C].

    Raises:
        ValueError: if the positions are no full grid, row by row. Reading them costs one device read.
    """
    ids = kwargs["img_ids"]
    frames, height, width = raster_size((ids[0] if ids.ndim == 3 else ids)[:, :3])
    return TokenGrid(
        frames, height, width, text_tokens=lengths(kwargs["encoder_hidden_states"]), text_first=True
    )


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of one forward, which these models take in [0, 1]."""
    return kwargs["timestep"] * 1000
