"""Real pipelines of the Wan family."""

from __future__ import annotations

from functools import partial
from typing import Any

from accel.patches.grid import Run, TokenGrid
from pipeline_case import UNIPC, PipelineCase
from stand_ins import clip, picture, seeing, vae
from tiny_families import CASES
from tiny_inputs import noise


def image_and_text(size: tuple[int, int, int], batch: int) -> dict[str, Any]:
    """Call arguments of a pipeline whose transformer reads 512 tokens of text beside the image's."""
    return {
        "image": picture(size),
        "prompt_embeds": noise(batch, 512, 16),
        "negative_prompt_embeds": noise(batch + 7, 512, 16)[:batch],
    }


def causal_in_pairs(pairs: int, height: int, width: int) -> TokenGrid:
    """A video in which two frames at a time see each other and those before."""
    runs = tuple(Run.chunk(2 * height * width, number) for number in range(pairs))
    return TokenGrid(2 * pairs, height, width, runs=runs)


FROM_IMAGE = {"components": seeing, "call": image_and_text}
wan = partial(PipelineCase, scheduler=UNIPC)

PIPELINES: dict[str, PipelineCase] = {
    "wan-t2v": wan("WanPipeline", "wan"),
    "wan-ti2v-5b": wan("WanPipeline", "wan", components=lambda: {"expand_timesteps": True}),
    "wan-i2v": wan(
        "WanImageToVideoPipeline",
        "wan-i2v",
        config={"in_channels": 12},
        **FROM_IMAGE,
    ),
    "wan2.2-i2v": wan(
        "WanImageToVideoPipeline",
        "wan",
        config={"in_channels": 12},
        components=vae(),
        call=lambda size, b: {"image": picture(size)},
    ),
    "wan-vace": wan(
        "WanVACEPipeline",
        "vace",
        config={"vace_in_channels": 72},
        components=vae(),
        prompts=1,
    ),
    "wan-animate": wan(
        "WanAnimatePipeline",
        "wan-animate",
        components=seeing,
        prompts=1,
        frames=None,
        call=lambda size, b: {
            **image_and_text(size, b),
            "pose_video": clip(size, 4 * (size[0] - 2) + 1),
            "face_video": clip(size, 4 * (size[0] - 2) + 1),
            "segment_frame_length": 4 * (size[0] - 2) + 1,
            "guidance_scale": 3.0,
        },
    ),
    "chronoedit": wan(
        "ChronoEditPipeline",
        "chronoedit",
        config={"in_channels": 12},
        **FROM_IMAGE,
        grids=lambda size: {TokenGrid(2, *size[1:])},
    ),
    "wan2.2-t2v": wan(
        "WanPipeline",
        "wan",
        components=lambda: {"transformer_2": CASES["wan"].model(), "boundary_ratio": 0.9},
    ),
    "skyreels-v2": wan("SkyReelsV2Pipeline", "skyreels"),
    "skyreels-v2-df": wan(
        "SkyReelsV2DiffusionForcingPipeline",
        "skyreels",
        call=lambda size, b: {"prompt": None, "base_num_frames": 97},
    ),
    "skyreels-v2-df-causal": wan(
        "SkyReelsV2DiffusionForcingPipeline",
        "skyreels",
        call=lambda size, b: {"prompt": None, "base_num_frames": 97, "causal_block_size": 2},
        frames=lambda frames: 4 * (2 * frames - 1) + 1,
        grids=lambda size: {causal_in_pairs(*size)},
    ),
    "skyreels-v2-i2v": wan(
        "SkyReelsV2ImageToVideoPipeline",
        "skyreels",
        config={"in_channels": 12, "image_dim": 16, "added_kv_proj_dim": 32},
        **FROM_IMAGE,
    ),
}
