"""What a pipeline's call takes of the settings, read from its class: before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from accel.load.modular import inputs_of
from accel.mistake import Mistake
from accel.run.rates import RATE_ARGUMENTS
from accel.run.settings import GenerateSettings, option_name
from accel.run.video import read_video

# Pipelines whose `image` takes any number of references.
SEVERAL_IMAGES = (
    "Flux2Pipeline",
    "Flux2KleinPipeline",
    "Flux2KleinKVPipeline",
    "QwenImageEditPlusPipeline",
    "ZImageOmniPipeline",
    "Flux3ModularPipeline",
    "Flux3DistilledModularPipeline",
)
# What else runs a pipeline's weights, from an image or from a video.
FROM_IMAGE = {
    "FluxPipeline": "FluxImg2ImgPipeline",
    "StableDiffusion3Pipeline": "StableDiffusion3Img2ImgPipeline",
    "QwenImagePipeline": "QwenImageImg2ImgPipeline",
    "ZImagePipeline": "ZImageImg2ImgPipeline",
    "LTXPipeline": "LTXImageToVideoPipeline",
    "LTX2Pipeline": "LTX2ImageToVideoPipeline",
}
FROM_VIDEO = {
    "WanPipeline": "WanVideoToVideoPipeline",
    "CogVideoXPipeline": "CogVideoXVideoToVideoPipeline",
    "LTXPipeline": "LTXConditionPipeline",
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
        name = FROM_IMAGE.get(name, name)
    if settings.video is not None:
        name = FROM_VIDEO.get(name, name)
    found = getattr(diffusers, name, None)
    if not isinstance(found, type):
        raise Mistake(f"the installed diffusers {diffusers.__version__} has no {name}; a newer one may")
    return found


def takes(pipeline: type, name: str) -> bool:
    """Whether a pipeline's call has an argument for a setting."""
    known = inputs_of(pipeline)
    if name == "image":
        return "image" in known or "reference_images" in known
    return name in ("seed", "fps") or _argument(pipeline, name) in known


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
    named = {_argument(pipeline, name) for name in _chosen(settings)} - {"image", "seed"}
    return frozenset(named | set(_image_arguments(pipeline, settings.image)))


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
    arguments |= _image_arguments(pipeline, [read_image(path) for path in settings.image])
    if settings.video is not None:
        arguments["video"] = read_video(settings.video)
    if settings.fps is not None:
        arguments |= {name: settings.fps for name in RATE_ARGUMENTS if name in known}
    return arguments


def read_image(path: str | Path) -> Image.Image:
    """An image file in RGB, turned as its camera says.

    Raises:
        Mistake: if it cannot be read.
    """
    from PIL import ImageOps

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise Mistake(f"{path}: is not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Mistake(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _chosen(settings: GenerateSettings) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if value is not None and value != ()}


def _argument(pipeline: type, name: str) -> str:
    if name == "guidance_scale" and pipeline.__name__.startswith(TRUE_GUIDANCE):
        true = "true_cfg_scale"
        return true if true in inputs_of(pipeline) else name
    return name


def _image_arguments(pipeline: type, images: Sequence[Any]) -> dict[str, Any]:
    """What a call takes for images: one to start from, a first and a last frame, or references."""
    known = inputs_of(pipeline)
    if not images:
        return {}
    if "reference_images" in known:
        return {"reference_images": list(images)}
    if pipeline.__name__ in SEVERAL_IMAGES:
        return {"image": list(images)}
    if len(images) == 2 and "last_image" in known:
        return {"image": images[0], "last_image": images[1]}
    if len(images) > 1:
        most = "two images, the first and the last frame" if "last_image" in known else "one image"
        raise Mistake(f"{pipeline.__name__} takes {most}, got {len(images)}")
    return {"image": images[0]}
