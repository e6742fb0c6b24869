"""Flux and Flux.2: text, then the tokens of one or more images, each with its position."""

from __future__ import annotations

from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor

from accel.patches.diffusers.families.image.positions import joint_attention, positioned_grid, unit_timestep
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted


class RoutedFluxProcessor(DispatchingProcessor, FluxAttnProcessor):  # type: ignore[misc]
    """Flux joint attention with a slot."""

    __call__ = rerouted(FluxAttnProcessor.__call__)


class RoutedFlux2Processor(DispatchingProcessor, Flux2AttnProcessor):  # type: ignore[misc]
    """Flux.2 joint attention with a slot."""

    __call__ = rerouted(Flux2AttnProcessor.__call__)


class RoutedFlux2ParallelProcessor(DispatchingProcessor, Flux2ParallelSelfAttnProcessor):  # type: ignore[misc]
    """Flux.2 attention of a single-stream block with a slot."""

    __call__ = rerouted(Flux2ParallelSelfAttnProcessor.__call__)


PROCESSORS: dict[type, type] = {
    FluxAttnProcessor: RoutedFluxProcessor,
    Flux2AttnProcessor: RoutedFlux2Processor,
    Flux2ParallelSelfAttnProcessor: RoutedFlux2ParallelProcessor,
}

attention_modules = joint_attention
read_grid = positioned_grid
read_timestep = unit_timestep
