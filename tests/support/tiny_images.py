"""Cases of the families that make images."""

from __future__ import annotations

import tiny_inputs as inputs
from tiny_case import ROPE, SMALL, Case
from tiny_inputs import DIM, HEADS, TEXT

CASES: dict[str, Case] = {
    "flux": Case(
        "FluxTransformer2DModel",
        {
            **SMALL,
            "in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 8,
            "axes_dims_rope": ROPE,
        },
        inputs.flux,
        text=TEXT,
        text_first=True,
        sites=4,
        graphs=3,
        image=True,
    ),
    "flux2": Case(
        "Flux2Transformer2DModel",
        {
            **SMALL,
            "in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "joint_attention_dim": 16,
            "timestep_guidance_channels": 16,
            "axes_dims_rope": (4, 4, 4, 4),
        },
        inputs.flux2,
        text=TEXT,
        text_first=True,
        sites=4,
        graphs=2,
        image=True,
    ),
    "qwen-image": Case(
        "QwenImageTransformer2DModel",
        {
            **SMALL,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 3,
            "joint_attention_dim": 16,
            "axes_dims_rope": ROPE,
        },
        inputs.qwen_image,
        text=TEXT,
        text_first=True,
        image=True,
    ),
    "sd3": Case(
        "SD3Transformer2DModel",
        {
            **SMALL,
            "sample_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "joint_attention_dim": 16,
            "caption_projection_dim": HEADS * DIM,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 64,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
        inputs.sd3,
        text=TEXT,
        graphs=3,
        image=True,
    ),
    "z-image": Case(
        "ZImageTransformer2DModel",
        {
            "in_channels": 4,
            "dim": HEADS * DIM,
            "n_layers": 3,
            "n_refiner_layers": 1,
            "n_heads": HEADS,
            "n_kv_heads": HEADS,
            "cap_feat_dim": 16,
            "axes_dims": list(ROPE),
            "axes_lens": [128, 64, 64],
        },
        inputs.z_image,
        text=lambda tokens: -tokens % 32 + 64,
        graphs=3,
        image=True,
    ),
}
