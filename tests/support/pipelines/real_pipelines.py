"""Real pipelines around tiny transformers: loops, schedulers, guidance and packing are stock."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

import image_pipelines
import wan_pipelines
from accel.patches.grid import ALWAYS, Run, Span, TokenGrid
from modular_case import ModularCase
from pipeline_case import NEGATIVE, UNIPC, PipelineCase, Size, two_texts
from stand_ins import (
    StandInImageEncoder,
    StandInTokenizer,
    StandInVae,
    Unchecked,
    clip,
    image_processor,
    picture,
    vae,
    with_audio,
)
from tiny_families import CASES, up_to_128
from tiny_inputs import TEXT, VALID, noise

EDM = (
    "EDMEulerScheduler",
    {"sigma_max": 80, "sigma_min": 0.002, "sigma_data": 1.0, "final_sigmas_type": "sigma_min"},
)
DDIM = ("CogVideoXDDIMScheduler", {})
UNGUIDED = {"stg_scale": 0.0, "modality_scale": 1.0, "audio_stg_scale": 0.0, "audio_modality_scale": 1.0}


def every_eighth(frames: int) -> int:
    """Frames of a video that is compressed by 8 along time."""
    return 8 * (frames - 1) + 1


LTX = {"pixels": 32, "frames": every_eighth}
LTX2 = LTX | {"components": with_audio}
COSMOS2 = {
    "family": "cosmos",
    "config": {"in_channels": 5},
    "components": lambda: {"safety_checker": Unchecked(), "vae": StandInVae()},
}
COGVIDEOX_IMAGE = {
    "config": {"in_channels": 8},
    "components": vae(),
    "scheduler": DDIM,
    "call": lambda size, b: {"image": picture(size, prompts=b)},
}


def coarse(size: Size, shrink: int) -> int:
    """Tokens of one frame at a lower resolution, filled up."""
    return math.ceil(size[1] / shrink) * math.ceil(size[2] / shrink)


def keyframe(size: Size, index: int) -> LTXVideoCondition:
    """An image that LTX-Video is to show at a frame."""
    return LTXVideoCondition(image=clip(size, 1, 32)[0], frame_index=index)


def keyframe2(size: Size, index: int) -> LTX2VideoCondition:
    """Likewise for LTX-2, not compressed before."""
    return LTX2VideoCondition(frames=clip(size, 1, 32)[0], index=index, crf=0)


def framepack_grids(size: Size) -> set[TokenGrid]:
    """Two clean frames, two at half and sixteen at a quarter of the resolution; text of one sample is cut."""
    lead = 2 * coarse(size, 1) + coarse(size, 2) + 4 * coarse(size, 4)
    return {TokenGrid(*size, text_tokens=3 + VALID, lead_tokens=lead)}


def helios_grids(size: Size) -> set[TokenGrid]:
    """The first and the last frame, two frames at half and four at a quarter of the resolution."""
    history = 2 * coarse(size, 1) + coarse(size, 2) + coarse(size, 4)
    return {TokenGrid(*size, text_tokens=history, text_first=True)}


def anyflow_far_grids(size: Size) -> set[TokenGrid]:
    """Three chunks of a frame, of which two are fine while one is generated, and one when they are cached."""
    frame, small = size[1] * size[2], Span(0, 1, size[1] // 2, size[2] // 2)
    added, hidden = Run.keys(up_to_128(frame)), (-1, ALWAYS, -ALWAYS)
    alone = TokenGrid(1, *size[1:], tail_tokens=added.tokens, runs=(Run.chunk(frame, 0), added))
    second = (Run.keys(frame), Run.chunk(frame, 1), added)
    third = (Run.keys(small.tokens), Run.keys(frame), Run.chunk(frame, 2), added)
    padding = Run(up_to_128(frame), *hidden), Run(up_to_128(small.tokens + frame), *hidden)
    both = (Run.chunk(small.tokens, 0), Run.chunk(frame, 1), padding[1])
    coarse = {"lead_tokens": small.tokens, "spans": (small,)}
    return {
        alone,
        TokenGrid(2, *size[1:], tail_tokens=added.tokens, runs=second),
        TokenGrid(2, *size[1:], tail_tokens=added.tokens, runs=third, **coarse),
        TokenGrid(1, *size[1:], tail_tokens=padding[0].tokens, runs=(Run.chunk(frame, 0), padding[0])),
        TokenGrid(1, *size[1:], tail_tokens=padding[1].tokens, runs=both, **coarse),
    }


def wan_animate2_call(size: Size, prompts: int) -> dict[str, Any]:
    """Two segments that share a frame."""
    references, height, width = size[0] - 1, *size[1:]
    segment = 4 * (references - 1) + 1
    return {
        "driving_video_pixels": noise(1, 3, 2 * segment - 1, 16 * height, 16 * width),
        "reference_image_latents": noise(8, 1, 2 * height, 2 * width),
        "effective_segment": segment - 1,
        "segment_frame_length": segment,
        "num_segments": 2,
        "condition_clip_context": noise(1, 3, 8),
        "prompt_embeds": noise(1, TEXT, 16),
        "negative_prompt_embeds": noise(2, TEXT, 16)[:1],
        "prompt_ref_embeds": noise(3, TEXT, 16)[:1],
        "max_seq_len": math.prod(size),
        "max_seq_len_ref": references * height * width,
        "grid_sizes_ref": torch.tensor([[references, height, width]]),
        "height": 16 * height,
        "width": 16 * width,
    }


PIPELINES: dict[str, PipelineCase] = {
    "hunyuan-video": PipelineCase(
        "HunyuanVideoPipeline",
        "hunyuan-video",
        "distilled",
        {"guidance_embeds": True},
        pads=True,
    ),
    "hunyuan-video-cfg": PipelineCase(
        "HunyuanVideoPipeline",
        "hunyuan-video",
        call=lambda size, b: {"true_cfg_scale": 3.0},
        pads=True,
    ),
    "hunyuan-video-i2v": PipelineCase(
        "HunyuanVideoImageToVideoPipeline",
        "hunyuan-video-i2v",
        "none",
        {"guidance_embeds": False},
        components=vae(),
        call=lambda size, b: {"image": picture(size, prompts=b)},
        pads=True,
    ),
    "framepack": PipelineCase(
        "HunyuanVideoFramepackPipeline",
        "framepack",
        "distilled",
        components=lambda: {
            "vae": StandInVae(),
            "image_encoder": StandInImageEncoder(3, 8),
            "feature_extractor": image_processor,
        },
        prompts=1,
        call=lambda size, b: {"image": picture(size), "latent_window_size": size[0]},
        pads=True,
        grids=framepack_grids,
    ),
    "hunyuan-video-1.5": PipelineCase(
        "HunyuanVideo15Pipeline",
        "hunyuan-video-1.5",
        config={"in_channels": 9},
        pixels=8,
        components=lambda: {
            "vae": StandInVae(),
            "guider": diffusers.ClassifierFreeGuidance(guidance_scale=3.0),
        },
        call=two_texts,
        pads=True,
        grids=lambda size: {TokenGrid(*size, text_tokens=TEXT + 5 + 729)},
    ),
    "ltx": PipelineCase("LTXPipeline", "ltx", "batched", **LTX),
    "ltx-i2v": PipelineCase(
        "LTXImageToVideoPipeline",
        "ltx",
        "batched",
        components=vae(spatial=32, temporal=8),
        **LTX,
        call=lambda size, b: {"image": picture(size, 32, b)},
    ),
    "ltx-condition": PipelineCase(
        "LTXConditionPipeline",
        "ltx",
        "batched",
        components=vae(spatial=32, temporal=8),
        **LTX,
        prompts=1,
        call=lambda size, b: {"conditions": [keyframe(size, 0), keyframe(size, 8)]},
        grids=lambda size: {TokenGrid(*size, lead_tokens=size[1] * size[2])},
    ),
    "ltx2-condition": PipelineCase(
        "LTX2ConditionPipeline",
        "ltx2",
        "batched",
        **LTX2,
        prompts=1,
        call=lambda size, b: UNGUIDED | {"conditions": [keyframe2(size, 0), keyframe2(size, 1)]},
        grids=lambda size: {TokenGrid(*size, text_tokens=size[1] * size[2])},
    ),
    "ltx2": PipelineCase(
        "LTX2Pipeline",
        "ltx2",
        "batched",
        **LTX2,
        call=lambda size, b: UNGUIDED,
    ),
    "ltx2-guided": PipelineCase(
        "LTX2Pipeline",
        "ltx2-perturbed",
        "batched",
        **LTX2,
        call=lambda size, b: {"spatio_temporal_guidance_blocks": [1]},
        passes=3,
        calls=8,
    ),
    "cogvideox": PipelineCase("CogVideoXPipeline", "cogvideox", "batched", scheduler=DDIM),
    "cogvideox-1.5": PipelineCase(
        "CogVideoXPipeline", "cogvideox-1.5", "batched", scheduler=DDIM, frames=lambda f: 8 * f - 3
    ),
    "cogvideox-i2v": PipelineCase(
        "CogVideoXImageToVideoPipeline",
        "cogvideox",
        "batched",
        **COGVIDEOX_IMAGE,
    ),
    "consisid": PipelineCase(
        "diffusers.pipelines.consisid.pipeline_consisid.ConsisIDPipeline",
        "consisid",
        "batched",
        **COGVIDEOX_IMAGE,
    ),
    "mochi": PipelineCase(
        "MochiPipeline",
        "mochi",
        "batched",
        frames=lambda f: 6 * (f - 1) + 1,
        pads=True,
        calls=12,
        grids=lambda size: {TokenGrid(*size, text_tokens=text) for text in (TEXT, VALID, NEGATIVE)},
    ),
    "cosmos": PipelineCase(
        "CosmosTextToWorldPipeline",
        "cosmos",
        scheduler=EDM,
        frames=every_eighth,
        components=lambda: {"safety_checker": Unchecked()},
    ),
    "cosmos-image": PipelineCase(
        "CosmosVideoToWorldPipeline",
        "cosmos",
        config={"in_channels": 5},
        components=lambda: {"safety_checker": Unchecked(), "vae": StandInVae(temporal=8)},
        scheduler=EDM,
        frames=every_eighth,
        call=lambda size, b: {"image": picture(size)},
    ),
    "cosmos2": PipelineCase(
        "Cosmos2VideoToWorldPipeline",
        **COSMOS2,
        scheduler=("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
        call=lambda size, b: {"image": picture(size)},
    ),
    "cosmos2.5": PipelineCase(
        "Cosmos2_5_PredictBasePipeline",
        **COSMOS2,
        scheduler=UNIPC,
        call=lambda size, b: {"num_latent_conditional_frames": 0},
    ),
    "cosmos3": PipelineCase(
        "Cosmos3OmniPipeline",
        "cosmos3",
        components=lambda: {
            "vae": StandInVae(),
            "text_tokenizer": StandInTokenizer(),
            "enable_safety_checker": False,
        },
        scheduler=UNIPC,
        prompts=1,
        call=lambda size, b: {
            "prompt": "a cat",
            "negative_prompt": "no dog",
            "add_resolution_template": False,
            "add_duration_template": False,
            "use_system_prompt": False,
        },
        grids=lambda size: {TokenGrid(*size, lead_tokens=text + 2) for text in (5, 6)},
    ),
    "kandinsky5": PipelineCase(
        "Kandinsky5T2VPipeline",
        "kandinsky5",
        components=vae(),
        call=lambda size, b: {
            "prompt_embeds_qwen": noise(b, TEXT, 16),
            "prompt_embeds_clip": noise(b, 8),
            "negative_prompt_embeds_qwen": noise(b + 7, TEXT, 16)[:b],
            "negative_prompt_embeds_clip": noise(b + 7, 8)[:b],
            "prompt_cu_seqlens": torch.arange(b + 1) * TEXT,
            "negative_prompt_cu_seqlens": torch.arange(b + 1) * TEXT,
        },
    ),
    "allegro": PipelineCase(
        "AllegroPipeline",
        "allegro",
        "batched",
        scheduler=("EulerAncestralDiscreteScheduler", {}),
        call=lambda size, b: {"negative_prompt": None},
    ),
    "easyanimate": PipelineCase("EasyAnimatePipeline", "easyanimate", "batched", components=vae()),
    "motif": PipelineCase(
        "MotifVideoPipeline",
        "motif",
        config={"in_channels": 9},
        components=lambda: {
            "vae": StandInVae(),
            "guider": diffusers.ClassifierFreeGuidance(guidance_scale=3.0),
        },
        pads=True,
    ),
    "anyflow": PipelineCase(
        "AnyFlowPipeline",
        "anyflow",
        "batched",
        scheduler=("FlowMapEulerDiscreteScheduler", {}),
        call=lambda size, b: {"guidance_scale": 3.0},
    ),
    "anyflow-far": PipelineCase(
        "AnyFlowFARPipeline",
        "anyflow-far",
        "batched",
        scheduler=("FlowMapEulerDiscreteScheduler", {}),
        call=lambda size, b: {"guidance_scale": 3.0, "chunk_partition": [1] * size[0]},
        grids=anyflow_far_grids,
        few_frames=True,
        calls=12,  # two steps of three chunks, and two caches written, in two steps
    ),
    "kandinsky6": PipelineCase(
        "Kandinsky6TI2VAPipeline", "kandinsky6", call=lambda size, b: {"sample_audio": False}
    ),
    "wan-animate2": ModularCase(
        "wan_animate_2.denoise.WanAnimate2DenoiseStep",
        "wan-animate2",
        components=lambda: {
            "vae": StandInVae(),
            "guider": diffusers.ClassifierFreeGuidance(guidance_scale=3.0),
        },
        prompts=1,
        call=wan_animate2_call,
        grids=lambda size: {TokenGrid(size[0] - 1, *size[1:]), CASES["wan-animate2"].grid(size)},
        calls=15,  # two segments of two guided steps and a cache filled, in two steps
        output="segment_frames",
    ),
    "minimax-h3": ModularCase(
        "minimax_h3.modular_blocks_minimax_h3.MiniMaxH3CoreDenoiseStep",
        "minimax-h3",
        "distilled",
        config={"in_channels": 24, "audio_in_channels": 32},
        scheduler=("MiniMaxH3Scheduler", {}),
        schedulers=("scheduler", "audio_scheduler"),
        steps=3,
        prompts=1,
        call=lambda size, b: {
            "prompt_embeds": noise(1, TEXT, 16),
            "text_token_tags": torch.ones(TEXT, dtype=torch.long),
            "num_frames": 124,
            "height": 32 * size[1],
            "width": 32 * size[2],
        },
        grids=lambda size: {TokenGrid(37, size[1], size[2], lead_tokens=TEXT + 2 * 207)},
    ),
    "minimax-h3-reference": ModularCase(
        "minimax_h3.modular_blocks_minimax_h3.MiniMaxH3Ref2VACoreDenoiseStep",
        "minimax-h3",
        "distilled",
        config={"in_channels": 24, "audio_in_channels": 32},
        scheduler=("MiniMaxH3Scheduler", {}),
        schedulers=("scheduler", "audio_scheduler"),
        transformer="transformer_ref",
        steps=3,
        prompts=1,
        call=lambda size, b: {
            "prompt_embeds": noise(1, TEXT, 16),
            "text_token_tags": torch.ones(TEXT, dtype=torch.long),
            "normalized_references": [SimpleNamespace(kind="video", has_audio=True)],
            "condition_latents": [noise(1, 24, 4, 2 * 5, 2 * 6)],
            "audio_condition_latents": [noise(14, 32)],
            "num_frames": 22,
            "height": 32 * size[1],
            "width": 32 * size[2],
        },
        grids=lambda size: {
            TokenGrid(7, *size[1:], lead_tokens=TEXT + 14 + 120 + 2 * 37, spans=(Span(TEXT + 14, 4, 5, 6),))
        },
    ),
    "helios": PipelineCase(
        "HeliosPipeline",
        "helios-history",
        scheduler=("HeliosScheduler", {"stages": 1}),
        components=vae(),
        frames=lambda f: 4 * (f - 1) + 1,
        call=lambda size, b: {"num_latent_frames_per_chunk": size[0], "history_sizes": [4, 2, 1]},
        grids=helios_grids,
    ),
}

PIPELINES |= wan_pipelines.PIPELINES | image_pipelines.PIPELINES
