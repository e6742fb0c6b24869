"""Cases of the families that make images."""

from __future__ import annotations

import functools

import tiny_inputs as inputs
from tiny_case import MIXED, ROPE, SMALL, Case
from tiny_inputs import DIM, HEADS, TEXT

COGVIEW4 = {**SMALL, "in_channels": 4, "out_channels": 4, "num_layers": 3, "text_embed_dim": 16}
COGVIEW4 |= {"time_embed_dim": 8, "condition_dim": 4, "sample_size": 32, "rope_axes_dim": (64, 64)}
FLUX3 = {**SMALL, "in_channels": 4, "cond_in_channels": 4, "num_layers": 1, "num_single_layers": 2}
FLUX3 |= {"joint_attention_dim": 16, "timestep_channels": 16, "axes_dims_rope": (4, 4, 4, 4)}

FIBO2 = {"in_channels": 4, "dim": HEADS * DIM, "n_layers": 3, "n_refiner_layers": 1, "n_heads": HEADS}
FIBO2 |= {"cap_feat_dim": 16, "injection_layer_ids": (1,), "perceiver_num_layers": 1, "gist_step": 1}
FIBO2 |= {"min_num_gist_tokens": 2, "max_num_gist_tokens": 6, "gist_min_text_len": 5}
FIBO2 |= {"gist_max_text_len": 20, "axes_dims": ROPE, "axes_lens": (64, 64, 64)}

LUMINA2 = {"in_channels": 4, "hidden_size": 2 * HEADS * DIM, "num_layers": 3, "num_refiner_layers": 1}
LUMINA2 |= {"num_attention_heads": 2 * HEADS, "num_kv_heads": HEADS, "multiple_of": 16, "cap_feat_dim": 16}
LUMINA2 |= {"axes_dim_rope": ROPE, "axes_lens": (64, 64, 64)}

NUCLEUS = {**SMALL, "in_channels": 16, "out_channels": 4, "num_layers": 3, "num_key_value_heads": 1}
NUCLEUS |= {"joint_attention_dim": 16, "axes_dims_rope": ROPE, "num_attention_heads": 2 * HEADS}
# Experts are not initialised before weights are loaded.
NUCLEUS |= {"moe_enabled": False}
PRX = {"in_channels": 4, "context_in_dim": 16, "hidden_size": HEADS * DIM, "num_heads": HEADS, "depth": 3}
PRX |= {"mlp_ratio": 1.0, "axes_dim": [8, 8]}

UNET = {"in_channels": 4, "out_channels": 4, "block_out_channels": (32, 32), "layers_per_block": 1}
UNET |= {"sample_size": 64, "norm_num_groups": 8, "attention_head_dim": HEADS, "cross_attention_dim": 16}
UNET |= {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
# No attention at the full resolution, and more layers below it.
DREAMLITE = UNET | {
    "down_block_types": ("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
    "up_block_types": ("DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
}
UNET_XL = UNET | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
UNET_XL |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2)}
UNET_XL |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "use_linear_projection": True}
UNET_XL |= {"projection_class_embeddings_input_dim": 8 + 6 * 4}

JOINT = MIXED | {"joint_attention_dim": 16}
HUNYUAN_IMAGE = MIXED | {"out_channels": 4, "num_refiner_layers": 1, "text_embed_dim": 16}
QWEN_IMAGE = {**SMALL, "in_channels": 16, "out_channels": 4, "num_layers": 3}
QWEN_IMAGE |= {"joint_attention_dim": 16, "axes_dims_rope": ROPE}

# As Flux has it: text first, and blocks of two kinds.
flux = functools.partial(Case, text=TEXT, text_first=True, sites=4, graphs=3, image=True)

lumina2 = functools.partial(Case, "Lumina2Transformer2DModel", LUMINA2, text=TEXT, image=True)

CASES: dict[str, Case] = {
    "flux": flux(
        "FluxTransformer2DModel",
        {
            **JOINT,
            "pooled_projection_dim": 8,
            "axes_dims_rope": ROPE,
        },
        inputs.flux,
    ),
    "flux2": Case(
        "Flux2Transformer2DModel",
        {
            **JOINT,
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
        QWEN_IMAGE,
        inputs.qwen_image,
        text=TEXT,
        text_first=True,
        image=True,
    ),
    "qwen-image-padded": Case(
        "QwenImageTransformer2DModel",
        QWEN_IMAGE,
        inputs.qwen_image_padded,
        text=TEXT,
        pads="encoder_hidden_states",
        image=True,
    ),
    "qwen-image-edit": Case(
        "QwenImageTransformer2DModel",
        QWEN_IMAGE,
        inputs.qwen_image_edit,
        text=TEXT + 35,
        pads="encoder_hidden_states",
        image=True,
    ),
    "qwen-image-2.1": Case(
        "QwenImage21Transformer2DModel",
        {
            **SMALL,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "context_in_dim": 16,
            "axes_dims_rope": ROPE,
        },
        inputs.qwen_image21,
        text=TEXT + 18,
        text_first=True,
        image=True,
        even=True,
    ),
    "krea2": Case(
        "Krea2Transformer2DModel",
        {
            "in_channels": 4,
            "num_layers": 3,
            "attention_head_dim": DIM,
            "num_attention_heads": 2 * HEADS,
            "num_key_value_heads": HEADS,
            "intermediate_size": 32,
            "timestep_embed_dim": 8,
            "text_hidden_dim": 16,
            "num_text_layers": 3,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 2,
            "text_intermediate_size": 16,
            "num_layerwise_text_blocks": 1,
            "num_refiner_text_blocks": 1,
            "axes_dims_rope": ROPE,
        },
        inputs.krea2,
        text=TEXT,
        pads="encoder_hidden_states",
        image=True,
    ),
    "lumina2": lumina2(inputs.lumina2, text_first=True),
    "lumina2-padded": lumina2(inputs.lumina2_padded, pads="encoder_hidden_states"),
    "nucleus-moe": Case(
        "NucleusMoEImageTransformer2DModel",
        NUCLEUS,
        inputs.nucleus_moe,
        text=TEXT,
        pads="encoder_hidden_states",
        image=True,
    ),
    "prx": Case(
        "PRXTransformer2DModel", PRX, inputs.prx, text=TEXT, pads="encoder_hidden_states", image=True
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
    "unet": Case(
        "UNet2DConditionModel",
        UNET,
        inputs.unet,
        sites=7,
        halvings=(0, 1, 1, 1, 1, 0, 0),
        graphs=2,
        image=True,
    ),
    "unet-dreamlite": Case(
        "DreamLiteUNetModel", DREAMLITE, inputs.unet, sites=4, halvings=(1,), graphs=2, image=True
    ),
    "unet-xl": Case("UNet2DConditionModel", UNET_XL, inputs.unet_xl, sites=8, halvings=(1,), image=True),
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
    "longcat-image": flux(
        "LongCatImageTransformer2DModel",
        {
            **JOINT,
            "pooled_projection_dim": 16,
            "axes_dims_rope": ROPE,
        },
        inputs.longcat_image,
    ),
    "ovis-image": flux(
        "OvisImageTransformer2DModel",
        {
            **JOINT,
            "out_channels": 4,
            "axes_dims_rope": ROPE,
        },
        inputs.longcat_image,
    ),
    "bria": flux(
        "BriaTransformer2DModel",
        {
            **JOINT,
            "axes_dims_rope": ROPE,
        },
        inputs.bria,
    ),
    "hunyuan-image": Case(
        "HunyuanImageTransformer2DModel",
        {
            **HUNYUAN_IMAGE,
            "rope_axes_dim": (8, 8),
        },
        inputs.hunyuan_image,
        text=TEXT,
        sites=4,
        graphs=3,
        pads="encoder_hidden_states",
        image=True,
    ),
    "hunyuan-image-refiner": Case(
        "HunyuanImageTransformer2DModel",
        {
            **HUNYUAN_IMAGE,
            "patch_size": (1, 1, 1),
            "rope_axes_dim": ROPE,
        },
        inputs.hunyuan_image_refiner,
        text=TEXT,
        sites=4,
        graphs=3,
        pads="encoder_hidden_states",
    ),
    "ernie-image": Case(
        "ErnieImageTransformer2DModel",
        {
            "hidden_size": HEADS * DIM,
            "num_attention_heads": HEADS,
            "num_layers": 3,
            "ffn_hidden_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "text_in_dim": 16,
            "rope_axes_dim": ROPE,
        },
        inputs.ernie_image,
        text=TEXT,
        pads="text_bth",
        image=True,
    ),
    "flux3": Case(
        "Flux3Transformer2DModel",
        FLUX3,
        inputs.flux3,
        text=TEXT,
        text_first=True,
        sites=2,
        graphs=3,
        image=True,
    ),
    "flux3-conditions": Case(
        "Flux3Transformer2DModel",
        FLUX3,
        functools.partial(inputs.flux3, conditions=13),
        text=TEXT,
        text_first=True,
        tail=13,
        sites=2,
        graphs=3,
        image=True,
    ),
    "cogview4": Case(
        "CogView4Transformer2DModel", COGVIEW4, inputs.cogview4, text=TEXT, text_first=True, image=True
    ),
    "glm-image": Case(
        "GlmImageTransformer2DModel",
        {key: value for key, value in COGVIEW4.items() if key not in ("rope_axes_dim", "sample_size")}
        | {"prior_vq_quantizer_codebook_size": 8},
        inputs.glm_image,
        text=TEXT,
        text_first=True,
        image=True,
    ),
    "pixart": Case(
        "PixArtTransformer2DModel",
        {
            **SMALL,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 3,
            "cross_attention_dim": HEADS * DIM,
            "caption_channels": 16,
            "sample_size": 32,
            "norm_num_groups": 4,
            "use_additional_conditions": False,
        },
        inputs.pixart,
        graphs=2,
        image=True,
    ),
    "cogview3": Case(
        "CogView3PlusTransformer2DModel",
        {key: value for key, value in COGVIEW4.items() if key != "rope_axes_dim"}
        | {"pos_embed_max_size": 64},
        inputs.cogview4,
        text=TEXT,
        text_first=True,
        graphs=2,
        image=True,
    ),
    "bria-fibo2": Case("BriaFibo2Transformer2DModel", FIBO2, inputs.bria_fibo2, lead=6, graphs=3, image=True),
    "bria-fibo2-conditions": Case(
        "BriaFibo2Transformer2DModel",
        FIBO2,
        functools.partial(inputs.bria_fibo2, conditions=(3, 5)),
        text=15,
        lead=6,
        graphs=3,
        image=True,
    ),
    "bria-fibo2-padded": Case(
        "BriaFibo2Transformer2DModel",
        FIBO2,
        inputs.bria_fibo2_padded,
        text=6,
        graphs=3,
        image=True,
    ),
}
