"""HunyuanVideo-1.5: video tokens, then image, glyph and text embeddings with all their padding last.

The stock processor spreads its key mask over every pair of tokens, gigabytes at 720p. All that this
adds is what padding itself may attend to, which nobody reads: the key mask alone gives the same video, in
sparse and in dense calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15AttnProcessor2_0
from torch import Tensor
from torch.overrides import TorchFunctionMode

from accel.patches.diffusers.reading import latent_grid, lengths, modules_named
from accel.patches.diffusers.routed_processor import DispatchingProcessor, rerouted, traceable
from accel.patches.grid import TokenGrid

TEXT_PADDING = "last"


class KeyMaskOnly(TorchFunctionMode):
    """Leaves a key mask [B, 1, 1, N] alone where it is repeated and joined with its transpose."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.repeat or func is Tensor.__and__:
            return args[0]
        return traceable(func)(*args, **(kwargs or {}))


def with_key_mask_only(stock_call: Callable) -> Callable:
    """The processor's `__call__`, of the same signature, without its mask of token pairs."""

    @functools.wraps(stock_call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with KeyMaskOnly():
            return stock_call(self, *args, **kwargs)

    return call


class RoutedHunyuanVideo15Processor(DispatchingProcessor, HunyuanVideo15AttnProcessor2_0):  # type: ignore[misc]
    """HunyuanVideo-1.5 joint attention with a slot."""

    __call__ = rerouted(with_key_mask_only(HunyuanVideo15AttnProcessor2_0.__call__))


PROCESSORS: dict[type, type] = {HunyuanVideo15AttnProcessor2_0: RoutedHunyuanVideo15Processor}
attention_modules = modules_named("transformer_blocks.*.attn")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W] and its three conditions [B, T, C]."""
    conditions = ("encoder_hidden_states", "encoder_hidden_states_2", "image_embeds")
    side = model.config.patch_size
    return latent_grid(
        kwargs["hidden_states"],
        (model.config.patch_size_t, side, side),
        text_tokens=lengths(*(kwargs[name] for name in conditions)),
    )
