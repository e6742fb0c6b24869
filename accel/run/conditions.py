"""What a generation starts from, images and videos: read, and the arguments by which pipelines take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from accel.load.modular import inputs_of
from accel.mistake import Mistake

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
# By which arguments pipelines take what the command line calls by one name.
TAKEN_BY = {"image": ("image", "reference_images", "conditions"), "video": ("video", "conditions")}


def takes_condition(pipeline: type, name: str) -> bool:
    """Whether a pipeline's call takes an "image", or a "video", to start from."""
    return not inputs_of(pipeline).keys().isdisjoint(TAKEN_BY[name])


def conditions_of(pipeline: type, images: Sequence[Any], video: Any, frames: int | None) -> dict[str, Any]:
    """What a call takes for images and a video.

    Args:
        images: one to start from, a first and a last frame, or references.
        video: frames to start from; None without.
        frames: of the video to make; None is the pipeline's own number.

    Raises:
        Mistake: if the pipeline does not take as many, or needs a package to read them.
    """
    known = inputs_of(pipeline)
    if "conditions" in known:
        return _keyframes(pipeline, images, video, frames or known["num_frames"].default)
    return _images(pipeline, images) | ({} if video is None else {"video": video})


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


def _images(pipeline: type, images: Sequence[Any]) -> dict[str, Any]:
    known = inputs_of(pipeline)
    if not images:
        return {}
    if pipeline.__name__ == "LTX2ImageToVideoPipeline":
        _require_av(pipeline)
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


def _keyframes(pipeline: type, images: Sequence[Any], video: Any, frames: int | None) -> dict[str, Any]:
    """The `conditions` of LTX's pipelines: a first and a last frame, or a video from the first frame on."""
    if images and video is not None:
        raise Mistake(f"{pipeline.__name__} starts from --image or from --video, not from both here")
    if len(images) > 2:
        raise Mistake(
            f"{pipeline.__name__} takes two images, the first and the last frame, got {len(images)}"
        )
    make = CONDITIONS[pipeline.__name__]
    if images and make is _ltx2:
        _require_av(pipeline)
    parts = [video] if video is not None else list(images)
    if not parts:
        return {}
    return {"conditions": [make(part, number > 0, frames) for number, part in enumerate(parts)]}


def _ltx(part: Any, last: bool, frames: int | None) -> Any:
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    kind = "video" if isinstance(part, list) else "image"
    return LTXVideoCondition(**{kind: part}, frame_index=(frames or 1) - 1 if last else 0)


def _ltx2(part: Any, last: bool, frames: int | None) -> Any:
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

    return LTX2VideoCondition(frames=part, index=-1 if last else 0)


CONDITIONS: dict[str, Callable[[Any, bool, int | None], Any]] = {
    "LTXConditionPipeline": _ltx,
    "LTX2ConditionPipeline": _ltx2,
}


def _require_av(pipeline: type) -> None:
    """LTX-2 compresses a starting image like a video, with PyAV."""
    if find_spec("av") is None:
        raise Mistake(f"{pipeline.__name__} needs PyAV for --image: pip install av")
