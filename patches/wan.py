"""The Wan family: Wan 2.1 and 2.2 (T2V, I2V, TI2V), VACE, ChronoEdit and SkyReels-V2.

Their self-attention holds video tokens only, frame-major, and their processors hand the mask argument to
diffusers' dispatcher untouched. So a subclass that fills that argument is all it takes: projections, fused
or not, norms, rotary embedding and output stay the parent's.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers import transformer_chronoedit, transformer_skyreels_v2, transformer_wan
from torch import Tensor, nn

from accel.patches.diffusers_backend import BACKEND, DenseDispatch, Routed, register
from accel.patches.grid import TokenGrid
from accel.patches.seat import Seat
from accel.patches.site import AttentionFn


class SeatedProcessor:
    """Mixin in front of a stock processor: routes its attention through a seat.

    Args:
        original: the stock processor that is put back on removal.
        fn: the attention function to seat.
    """

    def __init__(self, original: Any, fn: AttentionFn) -> None:
        register()
        self.original = original
        self._parallel_config = original._parallel_config
        self.seat = Seat(fn, DenseDispatch(original._attention_backend))

    def __setstate__(self, state: dict[str, Any]) -> None:
        register()
        self.__dict__.update(state)

    @property
    def _attention_backend(self) -> AttentionBackendName:
        return BACKEND

    @_attention_backend.setter
    def _attention_backend(self, chosen: AttentionBackendName | str | None) -> None:
        # `set_attention_backend` on an accelerated model chooses what its dense calls run on.
        self.seat.dense = DenseDispatch(chosen)

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        routed = Routed(attention_mask, self.seat.handle)
        return super().__call__(attn, hidden_states, encoder_hidden_states, routed, rotary_emb)  # type: ignore[misc]


class SeatedWanProcessor(SeatedProcessor, transformer_wan.WanAttnProcessor):  # type: ignore[misc]
    """Wan and VACE self-attention with a seat."""


class SeatedChronoEditProcessor(SeatedProcessor, transformer_chronoedit.WanAttnProcessor):  # type: ignore[misc]
    """ChronoEdit self-attention with a seat."""


class SeatedSkyReelsV2Processor(SeatedProcessor, transformer_skyreels_v2.SkyReelsV2AttnProcessor):  # type: ignore[misc]
    """SkyReels-V2 self-attention with a seat."""


SEATED: dict[type, type[SeatedProcessor]] = {
    transformer_wan.WanAttnProcessor: SeatedWanProcessor,
    transformer_chronoedit.WanAttnProcessor: SeatedChronoEditProcessor,
    transformer_skyreels_v2.SkyReelsV2AttnProcessor: SeatedSkyReelsV2Processor,
}


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The self-attention modules by dotted name, in the order they stand in the model."""
    return [(name, module) for name, module in model.named_modules() if name.rpartition(".")[2] == "attn1"]


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W] and the model's patch size."""
    latent = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    frames, height, width = latent.shape[2:]
    p_t, p_h, p_w = model.config.patch_size
    return TokenGrid(frames // p_t, height // p_h, width // p_w)


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep argument of one forward, of any shape."""
    return kwargs["timestep"] if "timestep" in kwargs else args[1]
