"""Real pipelines of the families that make images."""

from __future__ import annotations

import functools
import math
from typing import Any

import diffusers
import torch
from torch import Tensor

from accel.patches.grid import TokenGrid
from modular_case import ModularCase
from pipeline_case import PipelineCase, Size, two_texts
from stand_ins import StandIn, StandInProcessor, StandInVae, vae
from tiny_inputs import TEXT, VALID, noise, text_mask


class LongCatImagePipeline(diffusers.LongCatImagePipeline):
    """The stock pipeline takes no embeddings without a prompt, so its text encoder is left out here."""

    def _encode_prompt(self, prompt: list[str]) -> torch.Tensor:
        return noise(1, TEXT, 16) if prompt == ["a cat"] else noise(7, TEXT, 16)[:1]


class DreamLitePipeline(diffusers.DreamLitePipeline):
    """The stock pipeline takes no embeddings, so its text encoder is left out here."""

    def encode_prompt(self, prompts: list[str], **_: Any) -> tuple[Tensor, Tensor]:
        return noise(len(prompts), TEXT, 16), torch.ones(len(prompts), TEXT)


def even(size: Size) -> Size:
    """GLM-Image asks for sides that are a multiple of two tokens."""
    return size[0], size[1] + size[1] % 2, size[2] + size[2] % 2


# Of little noise, so that latents stay near 1.
EULER = (
    "EulerDiscreteScheduler",
    {"timestep_spacing": "trailing", "steps_offset": 1, "beta_start": 1e-5, "beta_end": 1e-4},
)

unet = functools.partial(
    PipelineCase,
    family="unet",
    guidance="batched",
    components=lambda: {"requires_safety_checker": False},
    scheduler=EULER,
    pixels=8,
    component="unet",
)


PIPELINES: dict[str, PipelineCase] = {
    "flux": PipelineCase("FluxPipeline", "flux", "distilled", {"guidance_embeds": True}),
    "flux-cfg": PipelineCase("FluxPipeline", "flux", call=lambda size, b: {"true_cfg_scale": 3.0}),
    "flux2": PipelineCase("Flux2Pipeline", "flux2", "distilled"),
    "flux-kontext": PipelineCase(
        "FluxKontextPipeline",
        "flux",
        "distilled",
        {"guidance_embeds": True},
        components=vae(channels=1),
        call=lambda size, b: {
            "image": noise(b, 1, 10, 14),
            "_auto_resize": False,
            "max_area": math.prod(size) * 16 * 16,
        },
        grids=lambda size: {TokenGrid(*size, text_tokens=TEXT, text_first=True, tail_tokens=35)},
    ),
    "qwen-image": PipelineCase("QwenImagePipeline", "qwen-image"),
    "qwen-image-2.1": PipelineCase(
        "QwenImage21Pipeline",
        "qwen-image-2.1",
        "none",
        components=lambda: {"processor": StandInProcessor()},
        call=lambda size, b: {
            "prompt_embeds_mask": text_mask(b),
            "negative_prompt_embeds": None,
            "height": 16 * even(size)[1],
            "width": 16 * even(size)[2],
        },
        grids=lambda size: {TokenGrid(*even(size), text_tokens=TEXT)},
        pads=True,
    ),
    "krea2": PipelineCase(
        "Krea2Pipeline",
        "krea2",
        components=lambda: {"patch_size": 2},
        call=lambda size, b: {
            "prompt_embeds": noise(b, TEXT, 3, 16),
            "negative_prompt_embeds": noise(b + 7, TEXT, 3, 16)[:b],
            "prompt_embeds_mask": text_mask(b),
            "negative_prompt_embeds_mask": text_mask(b, valid=4),
        },
    ),
    "lumina2": PipelineCase(
        "Lumina2Pipeline",
        "lumina2-padded",
        call=lambda size, b: {"cfg_trunc_ratio": 1.0},
        pads=True,
    ),
    "nucleus-moe": PipelineCase(
        "NucleusMoEImagePipeline",
        "nucleus-moe",
        call=lambda size, b: {
            "prompt_embeds_mask": text_mask(b),
            "negative_prompt_embeds_mask": text_mask(b, valid=4),
        },
        pads=True,
    ),
    "prx": PipelineCase(
        "PRXPipeline",
        "prx",
        "batched",
        prompts=1,  # The stock pipeline gives two timesteps to a batch of any size.
        call=lambda size, b: {"use_resolution_binning": False},
        pads=True,
    ),
    "stable-diffusion": unet("StableDiffusionPipeline"),
    "stable-diffusion-img2img": unet(
        "StableDiffusionImg2ImgPipeline",
        call=lambda size, b: {"image": noise(b, 4, *size[1:]), "strength": 1.0},
    ),
    "stable-diffusion-inpaint": unet(
        "StableDiffusionInpaintPipeline",
        components=lambda: {"requires_safety_checker": False, **vae()()},
        call=lambda size, b: {
            "image": noise(b, 4, *size[1:]),
            "mask_image": torch.ones(b, 1, 8 * size[1], 8 * size[2]),
            "masked_image_latents": noise(b, 4, *size[1:]),
        },
    ),
    "dreamlite": PipelineCase(
        "image_pipelines.DreamLitePipeline",
        "unet-dreamlite",
        "batched",
        components=lambda: {"vae": StandInVae(), "text_encoder": StandIn()},
        call=lambda size, b: {"prompt": "a cat"},
        pixels=8,
        prompts=1,
        grids=lambda size: {TokenGrid(1, size[1], 2 * size[2]).halved(1)},  # an image to edit is beside it
        component="unet",
    ),
    "stable-diffusion-xl": unet("StableDiffusionXLPipeline", family="unet-xl", components=dict),
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
    "longcat-image": PipelineCase(
        "image_pipelines.LongCatImagePipeline",
        "longcat-image",
        config={"in_channels": 64},
        prompts=1,
        call=lambda size, b: {
            "prompt": "a cat",
            "negative_prompt": "no dog",
            "enable_prompt_rewrite": False,
            "prompt_embeds": None,
            "negative_prompt_embeds": None,
        },
    ),
    "ovis-image": PipelineCase(
        "OvisImagePipeline", "ovis-image", call=lambda size, b: {"negative_prompt": None}
    ),
    "bria": PipelineCase("BriaPipeline", "bria", "batched", components=vae()),
    "hunyuan-image": PipelineCase(
        "HunyuanImagePipeline",
        "hunyuan-image",
        components=lambda: {"guider": diffusers.ClassifierFreeGuidance(guidance_scale=3.0)},
        call=two_texts,
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
    "flux3": ModularCase(
        "flux3.modular_blocks_flux3.Flux3CoreDenoiseStep",
        "flux3",
        config={"in_channels": 128},
        prompts=1,
        call=lambda size, b: {
            "prompt_embeds": noise(1, TEXT, 16),
            "negative_prompt_embeds": noise(7, TEXT, 16)[:1],
            "height": 16 * size[1],
            "width": 16 * size[2],
        },
    ),
    "flux3-references": ModularCase(
        "flux3.modular_blocks_flux3.Flux3ImageConditionedCoreDenoiseStep",
        "flux3",
        config={"in_channels": 128, "cond_in_channels": 128},
        prompts=1,
        call=lambda size, b: {
            "prompt_embeds": noise(1, TEXT, 16),
            "negative_prompt_embeds": noise(7, TEXT, 16)[:1],
            "image_cond_latents": [noise(1, 128, *size[1:]), noise(1, 128, 5, 7)],
        },
        grids=lambda size: {TokenGrid(2, *size[1:], TEXT, text_first=True, tail_tokens=35)},
    ),
    "cogview4": PipelineCase("CogView4Pipeline", "cogview4"),
    "glm-image": PipelineCase(
        "GlmImagePipeline",
        "glm-image",
        components=vae(),
        call=lambda size, b: {
            "height": 16 * even(size)[1],
            "width": 16 * even(size)[2],
            "prior_token_ids": torch.arange(b * math.prod(even(size))).reshape(b, -1) % 8,
        },
        grids=lambda size: {TokenGrid(*even(size), text_tokens=TEXT, text_first=True)},
    ),
    "pixart": PipelineCase(
        "PixArtSigmaPipeline",
        "pixart",
        "batched",
        scheduler=("DPMSolverMultistepScheduler", {}),
        call=lambda size, b: {"use_resolution_binning": False, "negative_prompt": None},
    ),
    "cogview3": PipelineCase(
        "CogView3PlusPipeline", "cogview3", "batched", scheduler=("CogVideoXDDIMScheduler", {})
    ),
    "bria-fibo2": PipelineCase(
        "BriaFibo2Pipeline",
        "bria-fibo2",
        call=lambda size, b: {
            "prompt_embeds": noise(b, 2, TEXT, 16),
            "negative_prompt_embeds": noise(b + 7, 2, TEXT, 16)[:b],
        },
    ),
}
