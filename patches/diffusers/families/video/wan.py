"""The Wan family: Wan 2.1 and 2.2 (T2V, I2V, TI2V), VACE, Animate, ChronoEdit and SkyReels-V2.

Their self-attention holds video tokens only, frame-major, and their processors hand the mask argument to
diffusers' dispatcher untouched. So a subclass that fills that argument is all it takes: projections, fused
or not, norms, rotary embedding and output stay the parent's. Wan-Animate's reference frame is the first of
its latent frames; its face adapter is cross-attention under another processor and is not changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers.models.transformers import (
    transformer_chronoedit,
    transformer_skyreels_v2,
    transformer_wan,
    transformer_wan_animate,
)
from torch import Tensor, nn

from accel.patches.diffusers.backend import Routed
from accel.patches.diffusers.reading import latent_grid
from accel.patches.diffusers.routed_processor import DispatchingProcessor, routed
from accel.patches.grid import Run, TokenGrid
from accel.patches.observers import is_recorded


class WanFamilyProcessor(DispatchingProcessor):
    """Mixin in front of a stock processor: its attention reaches the slot in the place of its mask."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if is_recorded():
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        routed = Routed(attention_mask, self.slot.handle)
        return super().__call__(attn, hidden_states, encoder_hidden_states, routed, rotary_emb)  # type: ignore[misc]


PROCESSORS = routed(
    transformer_wan.WanAttnProcessor,
    transformer_wan_animate.WanAttnProcessor,
    transformer_chronoedit.WanAttnProcessor,
    transformer_skyreels_v2.SkyReelsV2AttnProcessor,
    mixin=WanFamilyProcessor,
)
TEXT_FREE = ("blocks.0.attn1", "vace_blocks.0.attn1")


def attention_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The self-attention modules by dotted name, in the order in which the model holds them."""
    return [(name, module) for name, module in model.named_modules() if name.rpartition(".")[2] == "attn1"]


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent video [B, C, F, H, W] and the model's patch size.

    SkyReels-V2's frames are causal in chunks while its pipeline runs them at noise levels of their own.
    """
    grid = latent_grid(kwargs["hidden_states"], model.config.patch_size)
    chunk = model.config.get("num_frame_per_block", 1)
    return grid if chunk < 2 else replace(grid, runs=chunks_of(grid, chunk))


def chunks_of(grid: TokenGrid, frames: int) -> tuple[Run, ...]:
    """The runs of a video whose chunks of so many frames see themselves and those before."""
    starts = range(0, grid.frames, frames)
    lengths = (min(frames, grid.frames - start) * grid.frame_tokens for start in starts)
    return tuple(Run.chunk(tokens, number) for number, tokens in enumerate(lengths))
