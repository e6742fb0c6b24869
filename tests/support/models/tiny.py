"""Tiny random models of the real classes, and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ChronoEditTransformer3DModel,
    SkyReelsV2Transformer3DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from torch import Tensor, nn

SMALL: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 3,
    "cross_attn_norm": True,
    "rope_max_seq_len": 128,
}
IMAGE = {"image_dim": 16, "added_kv_proj_dim": 32}


def wan(**changes: Any) -> WanTransformer3DModel:
    return _seeded(WanTransformer3DModel, **{**SMALL, **changes})


def wan_i2v(**changes: Any) -> WanTransformer3DModel:
    return wan(**{**IMAGE, **changes})


def vace(**changes: Any) -> WanVACETransformer3DModel:
    return _seeded(
        WanVACETransformer3DModel, **{**SMALL, "vace_layers": [0, 2], "vace_in_channels": 6, **changes}
    )


def chronoedit(**changes: Any) -> ChronoEditTransformer3DModel:
    return _seeded(ChronoEditTransformer3DModel, **{**SMALL, **IMAGE, **changes})


def skyreels(**changes: Any) -> SkyReelsV2Transformer3DModel:
    return _seeded(SkyReelsV2Transformer3DModel, **{**SMALL, **changes})


def _seeded(cls: type, **config: Any) -> Any:
    torch.manual_seed(0)
    model = cls(**config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # Random models attend almost uniformly: sharpen, so that dropped blocks show in the output.
        if name.endswith(("norm_q.weight", "norm_k.weight")):
            parameter.mul_(2.5)
    return model


def inputs(
    model: nn.Module, frames: int = 5, height: int = 12, width: int = 20, batch: int = 1
) -> dict[str, Any]:
    """Forward arguments for a latent of that many frames, rows and columns (before patchifying)."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    name = type(model).__name__
    text = 512 if model.config.added_kv_proj_dim else 7
    arguments: dict[str, Any] = {
        "hidden_states": noise(batch, 4, frames, height, width),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": noise(batch, text, 16),
        "return_dict": False,
    }
    if model.config.added_kv_proj_dim:
        arguments["encoder_hidden_states_image"] = noise(batch, 6, 16)
    if name == "WanVACETransformer3DModel":
        arguments["control_hidden_states"] = noise(batch, 6, frames, height, width)
    return arguments


WAN_FAMILY = {
    "wan": wan,
    "wan-i2v": wan_i2v,
    "vace": vace,
    "chronoedit": chronoedit,
    "skyreels": skyreels,
}
