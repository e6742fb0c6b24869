"""What a pipeline's call takes of the settings, read from its class: before anything is loaded."""

from __future__ import annotations

from typing import Any

from accel.load.modular import inputs_of
from accel.mistake import Mistake
from accel.run.conditions import TAKEN_BY, conditions_of, read_image, takes_condition
from accel.run.rates import RATE_ARGUMENTS
from accel.run.settings import GenerateSettings, option_name
from accel.run.video import read_video

# What else runs a pipeline's weights: from an image, from a first and a last frame, or from a video.
FROM_IMAGE = {
    "FluxPipeline": "FluxImg2ImgPipeline",
    "StableDiffusion3Pipeline": "StableDiffusion3Img2ImgPipeline",
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
    "QwenImagePipeline": "QwenImageImg2ImgPipeline",
    "ZImagePipeline": "ZImageImg2ImgPipeline",
    "LTXPipeline": "LTXImageToVideoPipeline",
    "LTX2Pipeline": "LTX2ImageToVideoPipeline",
}
FROM_TWO_IMAGES = {
    "LTXPipeline": "LTXConditionPipeline",
    "LTXImageToVideoPipeline": "LTXConditionPipeline",
    "LTX2Pipeline": "LTX2ConditionPipeline",
    "LTX2ImageToVideoPipeline": "LTX2ConditionPipeline",
}
FROM_VIDEO = {
    **FROM_TWO_IMAGES,
    "WanPipeline": "WanVideoToVideoPipeline",
    "CogVideoXPipeline": "CogVideoXVideoToVideoPipeline",
    "SkyReelsV2DiffusionForcingPipeline": "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
}
# Where `guidance_scale` is something else, the argument that is classifier-free guidance.
TRUE_GUIDANCE = ("QwenImage", "Ovis", "LongCat")


def pipeline_class(name: str, settings: GenerateSettings) -> type:
    """The class to run: the named one, or the one for the same weights that starts from what is given.

    Raises:
        Mistake: if diffusers has no such class.
    """
    import diffusers

    if settings.image:
        name = (FROM_IMAGE if len(settings.image) == 1 else FROM_IMAGE | FROM_TWO_IMAGES).get(name, name)
    if settings.video is not None:
        name = FROM_VIDEO.get(name, name)
    found = getattr(diffusers, name, None)
    if not isinstance(found, type):
        raise Mistake(f"the installed diffusers {diffusers.__version__} has no {name}; a newer one may")
    return found


def takes(pipeline: type, name: str) -> bool:
    """Whether a pipeline's call has an argument for a setting."""
    if name in TAKEN_BY:
        return takes_condition(pipeline, name)
    return name in ("seed", "fps") or _argument(pipeline, name) in inputs_of(pipeline)


def require_arguments(pipeline: type, settings: GenerateSettings) -> None:
    """Refuse settings that a pipeline has no argument for, and pipelines that need what is not given.

    Raises:
        Mistake: names them all.
    """
    chosen = _chosen(settings)
    unknown = [option_name(name) for name in chosen if not takes(pipeline, name)]
    if unknown:
        raise Mistake(f"{pipeline.__name__} takes no {', '.join(unknown)}")
    given = given_inputs(pipeline, settings)
    known = inputs_of(pipeline, given).values()
    needed = [
        each.name for each in known if each.default is each.empty and each.kind == each.POSITIONAL_OR_KEYWORD
    ]
    missing = [name for name in needed if name not in ("self", *given)]
    if beyond := [name for name in missing if name not in GenerateSettings.model_fields]:
        raise Mistake(f"{pipeline.__name__} needs {', '.join(beyond)}, which only Python can give")
    if missing:
        raise Mistake(f"{pipeline.__name__} needs {', '.join(map(option_name, missing))}")


def given_inputs(pipeline: type, settings: GenerateSettings) -> frozenset[str]:
    """Names of the call's arguments that settings give."""
    named = {_argument(pipeline, name) for name in _chosen(settings)} - {"image", "video", "seed"}
    started = conditions_of(pipeline, settings.image, settings.video, settings.num_frames)
    return frozenset(named | started.keys())


def call_arguments(pipeline: type, settings: GenerateSettings) -> dict[str, Any]:
    """The arguments of the call, images and videos read.

    Raises:
        Mistake: as `require_arguments`, or if an image or video cannot be read.
    """
    require_arguments(pipeline, settings)
    known = inputs_of(pipeline)
    arguments = {
        _argument(pipeline, name): value
        for name, value in _chosen(settings).items()
        if name not in ("image", "video", "fps", "seed")
    }
    video = None if settings.video is None else read_video(settings.video)
    images = [read_image(path) for path in settings.image]
    arguments |= conditions_of(pipeline, images, video, settings.num_frames)
    if settings.fps is not None:
        arguments |= {name: settings.fps for name in RATE_ARGUMENTS if name in known}
    return arguments


def _chosen(settings: GenerateSettings) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if value is not None and value != ()}


def _argument(pipeline: type, name: str) -> str:
    if name == "guidance_scale" and pipeline.__name__.startswith(TRUE_GUIDANCE):
        true = "true_cfg_scale"
        return true if true in inputs_of(pipeline) else name
    if name == "strength" and "denoise_strength" in inputs_of(pipeline):
        return "denoise_strength"
    return name
