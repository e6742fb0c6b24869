"""Real pipelines of the families that make images."""

from __future__ import annotations

import diffusers
import torch

from pipeline_case import PipelineCase
from stand_ins import vae
from tiny_inputs import TEXT, VALID, noise, text_mask

PIPELINES: dict[str, PipelineCase] = {
    "flux": PipelineCase("FluxPipeline", "flux", "distilled", {"guidance_embeds": True}),
    "flux-cfg": PipelineCase("FluxPipeline", "flux", call=lambda size, b: {"true_cfg_scale": 3.0}),
    "flux2": PipelineCase("Flux2Pipeline", "flux2", "distilled"),
    "qwen-image": PipelineCase("QwenImagePipeline", "qwen-image"),
    "sd3": PipelineCase("StableDiffusion3Pipeline", "sd3", "batched"),
    "z-image": PipelineCase(
        "ZImagePipeline",
        "z-image",
        "batched",
        call=lambda size, b: {
            "prompt_embeds": [noise(40, 16), noise(TEXT, 16)][:b],
            "negative_prompt_embeds": [noise(9, 16), noise(12, 16)][:b],
        },
    ),
    "longcat-image": PipelineCase("LongCatImagePipeline", "longcat-image", config={"in_channels": 64}),
    "ovis-image": PipelineCase("OvisImagePipeline", "ovis-image"),
    "bria": PipelineCase("BriaPipeline", "bria", "batched", components=vae()),
    "hunyuan-image": PipelineCase(
        "HunyuanImagePipeline",
        "hunyuan-image",
        components=lambda: {"guider": diffusers.ClassifierFreeGuidance(guidance_scale=3.0)},
        call=lambda size, b: {
            "prompt_embeds_mask": text_mask(b),
            "negative_prompt_embeds_mask": text_mask(b, valid=4),
            "prompt_embeds_2": noise(b, 5, 8),
            "prompt_embeds_mask_2": torch.ones(b, 5),
            "negative_prompt_embeds_2": noise(b, 5, 8),
            "negative_prompt_embeds_mask_2": torch.zeros(b, 5),
        },
        pixels=32,
        pads=True,
    ),
    "ernie-image": PipelineCase(
        "ErnieImagePipeline",
        "ernie-image",
        "batched",
        call=lambda size, b: {
            "prompt_embeds": [noise(TEXT, 16), noise(VALID, 16)][:b],
            "negative_prompt_embeds": [noise(9, 16), noise(12, 16)][:b],
        },
    ),
    "cogview4": PipelineCase("CogView4Pipeline", "cogview4"),
    "glm-image": PipelineCase(
        "GlmImagePipeline",
        "glm-image",
        components=vae(),
        call=lambda size, b: {
            "prior_token_ids": torch.arange(b * size[1] * size[2]).reshape(b, -1) % 8,
        },
    ),
}
