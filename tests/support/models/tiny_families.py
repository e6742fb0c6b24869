"""Cases of every family: those below make videos."""

from __future__ import annotations

import functools
import math
from typing import Any
from unittest.mock import patch

from diffusers.models.transformers import transformer_wan_animate_2
from torch.nn.attention.flex_attention import create_block_mask

import tiny_images
import tiny_inputs as inputs
from accel.patches.grid import ALWAYS, Run, Span
from tiny_case import MIXED, ROPE, SMALL, Case, output
from tiny_inputs import DIM, HEADS, TEXT, VALID, text_mask

__all__ = ["CASES", "TEXT", "VALID", "Case", "output", "text_mask"]

COGVIDEOX = {**SMALL, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 16}
COGVIDEOX |= {"num_layers": 3, "max_text_seq_length": TEXT, "use_rotary_positional_embeddings": True}
HUNYUAN = {**SMALL, "in_channels": 4, "out_channels": 4, "num_refiner_layers": 1, "rope_axes_dim": ROPE}
HUNYUAN_VIDEO = {**HUNYUAN, "num_layers": 2, "num_single_layers": 2, "text_embed_dim": 16}
HUNYUAN_VIDEO |= {"pooled_projection_dim": 8}
LTX = {**SMALL, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 32, "num_layers": 3}
LTX2 = {**LTX, "caption_channels": 16, "audio_in_channels": 4, "audio_out_channels": 4}
LTX2 |= {"audio_num_attention_heads": 2, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16}
WAN = {**SMALL, "out_channels": 4, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 3}
WAN_IMAGE = {"image_dim": 16, "added_kv_proj_dim": HEADS * DIM}
ANYFLOW = {key: value for key, value in WAN.items() if key != "rope_max_seq_len"} | {"in_channels": 4}
ANYFLOW_FAR = {**ANYFLOW, "full_chunk_limit": 2}
KANDINSKY6 = {"in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 16, "in_text_dim2": 8, "time_dim": 16}
KANDINSKY6 |= {"model_dim": HEADS * DIM, "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 3}
KANDINSKY6 |= {"axes_dims": ROPE, "in_audio_dim": 4, "out_audio_dim": 4}
MINIMAX_H3 = {**SMALL, "hidden_size": 32, "num_layers": 3, "num_refiner_layers": 1, "ffn_dim": 32}
MINIMAX_H3 |= {"in_channels": 4, "audio_in_channels": 4, "text_dim": 16, "freq_dim": 16}
MINIMAX_H3 |= {"time_embed_hidden_dim": 16, "time_embed_dim": 8, "rope_freq_dim": 2}
COSMOS3 = {"hidden_size": 32, "head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
COSMOS3 |= {"num_hidden_layers": 3, "intermediate_size": 32, "latent_channel": 4, "patch_latent_dim": 16}
COSMOS3 |= {"vocab_size": 32, "rope_axes_dim": [4, 2, 2]}


def framepack_history(frames: int, height: int, width: int) -> int:
    """Tokens of two clean frames, two at half and three at a quarter of the resolution."""
    return (
        2 * height * width
        + math.ceil(height / 2) * math.ceil(width / 2)
        + math.ceil(height / 4) * math.ceil(width / 4)
    )


def up_to_128(tokens: int) -> int:
    """How many are added."""
    return -tokens % 128


def anyflow_far_runs(f: int, h: int, w: int) -> tuple[Run, ...]:
    """A coarse frame and a fine one, which have no queries here, a chunk, and zeros, which are seen."""
    chunk = (f - 1) * h * w
    runs = (((h // 2) * (w // 2), -1, 0), (h * w, -1, 0), (chunk, 2, 2), (up_to_128(chunk), -1, 0))
    return tuple(Run(*run) for run in runs)


def anyflow_far_whole_runs(f: int, h: int, w: int) -> tuple[Run, ...]:
    """A frame, the others, which see it, and zeros, which nobody sees."""
    padding = Run(up_to_128(f * h * w), -1, ALWAYS, -ALWAYS)
    return Run(h * w, 0, 0), Run((f - 1) * h * w, 1, 1), padding


def wan_animate2_runs(f: int, h: int, w: int) -> tuple[Run, ...]:
    """Generated frames, and references of all but the first, which their frame alone sees."""
    padding = [Run(up_to_128(frames * h * w), -1, ALWAYS, -ALWAYS) for frames in (f, f - 1)]
    generated = [Run(h * w, frame, 0) for frame in range(f)]
    references = [Run(h * w, -1, frame, frame) for frame in range(1, f)]
    return (*generated, padding[0], *references, padding[1])


def uncompiled_mask(model: Any, frames: int, tokens: int, device: Any) -> Any:
    """Wan-Animate 2's own mask. To compile it takes half a minute."""
    with patch.object(transformer_wan_animate_2, "create_block_mask", uncompiled):
        return type(model).create_mask(model, frames, tokens, device)


def uncompiled(*args: Any, _compile: bool, **kwargs: Any) -> Any:
    return create_block_mask(*args, **kwargs)


def with_uncompiled_masks(model: Any) -> None:
    model.create_mask = functools.partial(uncompiled_mask, model)


CASES: dict[str, Case] = {
    "hunyuan-video": Case(
        "HunyuanVideoTransformer3DModel",
        HUNYUAN_VIDEO,
        inputs.hunyuan_video,
        text=TEXT,
        sites=4,
        graphs=5,
        pads="encoder_hidden_states",
    ),
    "hunyuan-video-i2v": Case(
        "HunyuanVideoTransformer3DModel",
        {
            **HUNYUAN_VIDEO,
            "image_condition_type": "token_replace",
        },
        inputs.hunyuan_video,
        text=TEXT,
        sites=4,
        graphs=4,
        pads="encoder_hidden_states",
    ),
    "hunyuan-video-1.5": Case(
        "HunyuanVideo15Transformer3DModel",
        {**HUNYUAN, "num_layers": 3, "text_embed_dim": 16, "text_embed_2_dim": 8, "image_embed_dim": 8},
        inputs.hunyuan_video15,
        text=TEXT + 5 + 3,
        pads="encoder_hidden_states",
        graphs=3,
    ),
    "framepack": Case(
        "HunyuanVideoFramepackTransformer3DModel",
        {
            **HUNYUAN_VIDEO,
            "has_image_proj": True,
            "image_proj_dim": 8,
            "has_clean_x_embedder": True,
        },
        inputs.framepack,
        text=TEXT + 3,
        lead=framepack_history,
        sites=4,
        graphs=3,
        pads="encoder_hidden_states",
    ),
    "ltx": Case("LTXVideoTransformer3DModel", {**LTX, "caption_channels": 16}, inputs.ltx),
    "ltx2": Case(
        "LTX2VideoTransformer3DModel",
        LTX2,
        inputs.ltx2,
    ),
    "ltx2-perturbed": Case(
        "LTX2VideoTransformer3DModel",
        {**LTX2, "perturbed_attn": True, "gated_attn": True},
        inputs.ltx2,
    ),
    "wan": Case("WanTransformer3DModel", {**WAN, "in_channels": 4}, inputs.wan),
    "wan-i2v": Case(
        "WanTransformer3DModel",
        {**WAN, **WAN_IMAGE, "in_channels": 4},
        functools.partial(inputs.wan, image=True),
    ),
    "vace": Case(
        "WanVACETransformer3DModel",
        {**WAN, "in_channels": 4, "vace_layers": [0, 2], "vace_in_channels": 6},
        functools.partial(inputs.wan, control=True),
        sites=5,
        graphs=3,
    ),
    "chronoedit": Case(
        "ChronoEditTransformer3DModel",
        {**WAN, **WAN_IMAGE, "in_channels": 4},
        functools.partial(inputs.wan, image=True),
    ),
    "skyreels": Case("SkyReelsV2Transformer3DModel", {**WAN, "in_channels": 4}, inputs.wan),
    "wan-animate": Case(
        "WanAnimateTransformer3DModel",
        {
            **WAN,
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": 16,
            "rope_max_seq_len": 64,
            "motion_encoder_channel_sizes": {"4": 4, "8": 4, "16": 4},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 4,
            "motion_encoder_dim": 8,
            "face_encoder_hidden_dim": 16,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 3,
        },
        inputs.wan_animate,
    ),
    "kandinsky5": Case(
        "Kandinsky5Transformer3DModel",
        {
            "in_visual_dim": 4,
            "out_visual_dim": 4,
            "in_text_dim": 16,
            "in_text_dim2": 8,
            "time_dim": 16,
            "model_dim": HEADS * DIM,
            "ff_dim": 32,
            "num_text_blocks": 1,
            "num_visual_blocks": 3,
            "axes_dims": ROPE,
        },
        inputs.kandinsky5,
        graphs=2,
    ),
    "cogvideox": Case(
        "CogVideoXTransformer3DModel", COGVIDEOX, inputs.cogvideox, text=TEXT, text_first=True, graphs=2
    ),
    "cogvideox-1.5": Case(
        "CogVideoXTransformer3DModel",
        {**COGVIDEOX, "patch_size_t": 2},
        inputs.cogvideox15,
        text=TEXT,
        text_first=True,
        graphs=2,
    ),
    "consisid": Case(
        "ConsisIDTransformer3DModel", COGVIDEOX, inputs.cogvideox, text=TEXT, text_first=True, graphs=2
    ),
    "mochi": Case(
        "MochiTransformer3DModel",
        {
            **SMALL,
            "num_layers": 3,
            "in_channels": 4,
            "pooled_projection_dim": 16,
            "text_embed_dim": 16,
            "time_embed_dim": 8,
            "max_sequence_length": TEXT,
        },
        inputs.mochi,
        text=TEXT,
        graphs=2,
        pads="encoder_hidden_states",
        calls=2,
    ),
    "cosmos": Case(
        "CosmosTransformer3DModel",
        {
            **SMALL,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "mlp_ratio": 2,
            "text_embed_dim": 16,
            "adaln_lora_dim": 4,
            "max_size": (16, 32, 32),
            "concat_padding_mask": False,
        },
        inputs.cosmos,
    ),
    "cosmos3": Case("Cosmos3OmniTransformer", COSMOS3, inputs.cosmos3, lead=TEXT),
    "cosmos3-sound": Case(
        "Cosmos3OmniTransformer",
        {**COSMOS3, "sound_gen": True, "sound_dim": 4},
        functools.partial(inputs.cosmos3, sound=13),
        text=13,
        lead=TEXT,
    ),
    "minimax-h3": Case(
        "MiniMaxH3Transformer3DModel", MINIMAX_H3, inputs.minimax_h3, lead=TEXT + 10, graphs=2
    ),
    "minimax-h3-keyframe": Case(
        "MiniMaxH3Transformer3DModel",
        MINIMAX_H3,
        functools.partial(inputs.minimax_h3, references=12),
        lead=TEXT + 12 + 10,
        graphs=2,
    ),
    "minimax-h3-reference": Case(
        "MiniMaxH3Transformer3DModel",
        MINIMAX_H3,
        inputs.minimax_h3_reference,
        lead=TEXT + 120 + 10,
        spans=(Span(TEXT, 4, 5, 6),),
        graphs=2,
    ),
    "anyflow": Case(
        "AnyFlowTransformer3DModel",
        ANYFLOW,
        inputs.anyflow,
    ),
    "anyflow-far": Case(
        "AnyFlowFARTransformer3DModel",
        ANYFLOW_FAR,
        inputs.anyflow_far,
        lead=lambda f, h, w: (h // 2) * (w // 2),
        spans=lambda f, h, w: (Span(0, 1, h // 2, w // 2),),
        tail=lambda f, h, w: up_to_128((f - 1) * h * w),
        runs=anyflow_far_runs,
        whole=False,
    ),
    "anyflow-far-whole": Case(
        "AnyFlowFARTransformer3DModel",
        ANYFLOW_FAR,
        inputs.anyflow_far_whole,
        tail=lambda f, h, w: up_to_128(f * h * w),
        runs=anyflow_far_whole_runs,
        whole=False,
    ),
    "wan-animate2": Case(
        "WanAnimate2Transformer3DModel",
        {
            "in_dim": 12,
            "out_dim": 4,
            "dim": HEADS * DIM,
            "num_heads": HEADS,
            "num_layers": 3,
            "ffn_dim": 32,
            "freq_dim": 16,
            "text_dim": 16,
            "text_len": 32,
            "use_img_emb": False,
        },
        inputs.wan_animate2,
        tail=lambda f, h, w: sum(run.tokens for run in wan_animate2_runs(f, h, w)) - f * h * w,
        runs=wan_animate2_runs,
        whole=False,
        prepare=with_uncompiled_masks,
    ),
    "kandinsky6": Case("Kandinsky6Transformer3DModel", KANDINSKY6, inputs.kandinsky6, graphs=2),
    "kandinsky6-i2v": Case(
        "Kandinsky6Transformer3DModel",
        {**KANDINSKY6, "visual_token_type_num_embeddings": 2},
        functools.partial(inputs.kandinsky6, clean=1),
        text=lambda video: 72 if video == 216 else 55,
        graphs=2,
    ),
    "allegro": Case(
        "AllegroTransformer3DModel",
        {
            "num_attention_heads": HEADS,
            "attention_head_dim": DIM * 3 // 2,
            "num_layers": 3,
            "cross_attention_dim": HEADS * DIM * 3 // 2,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 4,
            "caption_channels": 16,
        },
        inputs.allegro,
    ),
    "easyanimate": Case(
        "EasyAnimateTransformer3DModel",
        {
            **SMALL,
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "time_embed_dim": 8,
            "text_embed_dim": 16,
            "num_layers": 3,
            "mmdit_layers": 2,
        },
        inputs.easyanimate,
        text=TEXT,
        text_first=True,
        graphs=2,
    ),
    "motif": Case(
        "MotifVideoTransformer3DModel",
        {
            **MIXED,
            "out_channels": 4,
            "text_embed_dim": 16,
            "rope_axes_dim": ROPE,
        },
        inputs.motif,
        text=TEXT,
        sites=4,
        graphs=3,
        pads="encoder_hidden_states",
    ),
    "helios": Case(
        "HeliosTransformer3DModel",
        {**WAN, "in_channels": 4, "rope_dim": ROPE},
        inputs.helios,
        text_first=True,
    ),
    "helios-history": Case(
        "HeliosTransformer3DModel",
        {**WAN, "in_channels": 4, "rope_dim": ROPE, "is_amplify_history": True},
        inputs.helios_with_history,
        text=16 + 4 + 1,
        text_first=True,
    ),
}

CASES |= tiny_images.CASES
