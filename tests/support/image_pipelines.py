"""Real pipelines of the families that make images."""

from __future__ import annotations

from pipeline_case import PipelineCase
from tiny_inputs import TEXT, noise

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
}
