"""The two sizes of the demo pipeline that can be trained: every number of model and training in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Phase:
    """The transformer's training up to the fraction `until`: clips `pixels` a side in batches of `batch`."""

    until: float
    pixels: int
    batch: int

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1 or self.pixels % 16 or self.batch < 1:
            raise ValueError(f"need until in (0, 1], pixels a multiple of 16, a positive batch; got {self}")


@dataclass(frozen=True)
class Size:
    """A pipeline to train.

    Args:
        frames, pixels: of the clips the finished pipeline makes; frames is 4n + 1.
        vae, text_encoder, transformer: configurations, as diffusers and transformers take them.
        pool: clips drawn once for the VAE to take its crops from.
        crop, whole: pixels a side of the VAE's usual crop and of the larger one of every tenth step.
        crops: usual crops in a VAE step.
        phases: the transformer's training, in order; the last one reaches 1.
        fresh, kept: clips encoded at every transformer step, and how many steps' clips are kept to draw from.
        text_lengths: padded prompt lengths in tokens, with the share of steps that use each.
        warmup: steps over which the transformer's learning rate rises.
    """

    frames: int
    pixels: int
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    transformer: dict[str, Any]
    pool: int
    crop: int
    whole: int
    crops: int
    phases: tuple[Phase, ...]
    fresh: int
    kept: int
    warmup: int
    text_lengths: dict[int, float] = field(default_factory=lambda: {32: 0.8, 226: 0.1, 512: 0.1})

    def __post_init__(self) -> None:
        if self.frames % 4 != 1 or self.pixels % 16:
            raise ValueError(f"need 4n + 1 frames and 16n pixels, got {self.frames} and {self.pixels}")
        if self.phases[-1].until != 1:
            raise ValueError(f"the last phase must reach 1, got {self.phases[-1]}")

    def phase(self, progress: float) -> Phase:
        """The phase in force when the fraction `progress` of the training is spent."""
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])


VAE = {
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "is_residual": True,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 4,
}
TEXT_ENCODER = {
    "vocab_size": 64,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_max_distance": 64,
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
TRANSFORMER = {"patch_size": (1, 2, 2), "cross_attn_norm": True, "freq_dim": 128, "rope_max_seq_len": 128}

SIZES: dict[str, Size] = {
    "small": Size(
        frames=33,
        pixels=192,
        vae=VAE | {"base_dim": 24, "z_dim": 8},
        text_encoder=TEXT_ENCODER
        | {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4},
        transformer=TRANSFORMER
        | {"num_layers": 8, "num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 768},
        pool=2048,
        crop=64,
        whole=144,
        crops=8,
        phases=(Phase(0.1, 96, 192), Phase(0.2, 128, 128), Phase(1.0, 192, 64)),
        fresh=8,
        kept=128,
        warmup=100,
    ),
    "toy": Size(
        frames=9,
        pixels=32,
        vae=VAE | {"base_dim": 8, "z_dim": 4},
        text_encoder=TEXT_ENCODER | {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
        transformer=TRANSFORMER
        | {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 128},
        pool=32,
        crop=16,
        whole=32,
        crops=4,
        phases=(Phase(0.5, 16, 8), Phase(1.0, 32, 8)),
        fresh=2,
        kept=8,
        warmup=2,
    ),
}
