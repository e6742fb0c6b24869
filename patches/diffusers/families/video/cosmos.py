"""Cosmos 1, 2 and 2.5 (Predict and Transfer): video tokens only.

The stock processor calls diffusers' dispatcher without naming a backend, so it runs whatever is active in
the whole process. In its routed twin that one name means the way to the slot, under any active backend; dense
calls still go to the active one.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_cosmos import CosmosAttnProcessor2_0
from torch import Tensor

from accel.patches.diffusers.backend import DenseDispatch, plain_attention
from accel.patches.diffusers.reading import latent_grid, modules_named
from accel.patches.diffusers.routed_processor import RoutedProcessor, calling, rerouted
from accel.patches.grid import TokenGrid
from accel.patches.slot import DenseFn


class RoutedCosmosProcessor(RoutedProcessor, CosmosAttnProcessor2_0):
    """Cosmos self-attention with a slot."""

    __call__ = rerouted(calling(CosmosAttnProcessor2_0.__call__, plain_attention))

    @staticmethod
    def dense_of(original: Any) -> DenseFn:
        return DenseDispatch(None)


PROCESSORS: dict[type, type] = {CosmosAttnProcessor2_0: RoutedCosmosProcessor}
TEXT_FREE = ("transformer_blocks.0.attn1",)
attention_modules = modules_named("transformer_blocks.*.attn1")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W]."""
    return latent_grid(kwargs["hidden_states"], model.config.patch_size)


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of one forward; Cosmos 2 and later take one for each frame, noise in [0, 1]."""
    timestep = kwargs["timestep"]
    return timestep * 1000 if timestep.ndim == 5 else timestep
