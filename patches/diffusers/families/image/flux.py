"""Flux and Flux.2: text, then the tokens of one or more images, each with its position."""

from __future__ import annotations

from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor

from accel.patches.diffusers.families.image.positions import joint_attention, positioned_grid, unit_timestep
from accel.patches.diffusers.seated_processor import DispatchingProcessor, rerouted


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

attention_modules = joint_attention
read_grid = positioned_grid
read_timestep = unit_timestep
