"""Family: the diffusers models that share one way to find and replace their attention."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from accel.patches.class_names import known_name
from accel.patches.context import TextPadding
from accel.patches.diffusers.reading import timestep_argument
from accel.patches.grid import TokenGrid
from accel.patches.site import Site

FAMILIES: dict[str, str] = {
    "WanTransformer3DModel": "accel.patches.diffusers.families.video.wan",
    "WanVACETransformer3DModel": "accel.patches.diffusers.families.video.wan",
    "WanAnimateTransformer3DModel": "accel.patches.diffusers.families.video.wan",
    "ChronoEditTransformer3DModel": "accel.patches.diffusers.families.video.wan",
    "SkyReelsV2Transformer3DModel": "accel.patches.diffusers.families.video.wan",
    "HunyuanVideoTransformer3DModel": "accel.patches.diffusers.families.joint_video.hunyuan_video",
    "HunyuanVideo15Transformer3DModel": "accel.patches.diffusers.families.joint_video.hunyuan_video15",
    "HunyuanVideoFramepackTransformer3DModel": "accel.patches.diffusers.families.joint_video.framepack",
    "LTXVideoTransformer3DModel": "accel.patches.diffusers.families.video.ltx",
    "LTX2VideoTransformer3DModel": "accel.patches.diffusers.families.video.ltx",
    "CogVideoXTransformer3DModel": "accel.patches.diffusers.families.joint_video.cogvideox",
    "ConsisIDTransformer3DModel": "accel.patches.diffusers.families.joint_video.cogvideox",
    "MochiTransformer3DModel": "accel.patches.diffusers.families.joint_video.mochi",
    "CosmosTransformer3DModel": "accel.patches.diffusers.families.video.cosmos",
    "Cosmos3OmniTransformer": "accel.patches.diffusers.families.joint_video.cosmos3",
    "Kandinsky5Transformer3DModel": "accel.patches.diffusers.families.video.kandinsky5",
    "AllegroTransformer3DModel": "accel.patches.diffusers.families.video.allegro",
    "EasyAnimateTransformer3DModel": "accel.patches.diffusers.families.joint_video.easyanimate",
    "MotifVideoTransformer3DModel": "accel.patches.diffusers.families.joint_video.motif",
    "HeliosTransformer3DModel": "accel.patches.diffusers.families.video.helios",
    "MiniMaxH3Transformer3DModel": "accel.patches.diffusers.families.joint_video.minimax_h3",
    "AnyFlowTransformer3DModel": "accel.patches.diffusers.families.video.anyflow",
    "AnyFlowFARTransformer3DModel": "accel.patches.diffusers.families.video.anyflow_far",
    "WanAnimate2Transformer3DModel": "accel.patches.diffusers.families.video.wan_animate2",
    "Kandinsky6Transformer3DModel": "accel.patches.diffusers.families.video.kandinsky6",
    "FluxTransformer2DModel": "accel.patches.diffusers.families.image.flux",
    "Flux2Transformer2DModel": "accel.patches.diffusers.families.image.flux",
    "QwenImageTransformer2DModel": "accel.patches.diffusers.families.image.padded.qwen_image",
    "QwenImage21Transformer2DModel": "accel.patches.diffusers.families.image.padded.qwen_image21",
    "SD3Transformer2DModel": "accel.patches.diffusers.families.image.sd3",
    "ZImageTransformer2DModel": "accel.patches.diffusers.families.image.padded.z_image",
    "LongCatImageTransformer2DModel": "accel.patches.diffusers.families.image.flux",
    "OvisImageTransformer2DModel": "accel.patches.diffusers.families.image.flux",
    "BriaTransformer2DModel": "accel.patches.diffusers.families.image.bria",
    "HunyuanImageTransformer2DModel": "accel.patches.diffusers.families.image.padded.hunyuan_image",
    "ErnieImageTransformer2DModel": "accel.patches.diffusers.families.image.padded.ernie_image",
    "Flux3Transformer2DModel": "accel.patches.diffusers.families.image.flux3",
    "CogView4Transformer2DModel": "accel.patches.diffusers.families.image.text_first",
    "GlmImageTransformer2DModel": "accel.patches.diffusers.families.image.text_first",
    "Krea2Transformer2DModel": "accel.patches.diffusers.families.image.padded.krea2",
    "BriaFibo2Transformer2DModel": "accel.patches.diffusers.families.image.padded.bria_fibo2",
    "CogView3PlusTransformer2DModel": "accel.patches.diffusers.families.image.text_first",
    "Lumina2Transformer2DModel": "accel.patches.diffusers.families.image.padded.lumina2",
    "NucleusMoEImageTransformer2DModel": "accel.patches.diffusers.families.image.padded.nucleus_moe",
    "PRXTransformer2DModel": "accel.patches.diffusers.families.image.padded.prx",
    "PixArtTransformer2DModel": "accel.patches.diffusers.families.image.pixart",
    "UNet2DConditionModel": "accel.patches.diffusers.families.image.unet",
    "DreamLiteUNetModel": "accel.patches.diffusers.families.image.unet",
}


def never_halved(model: nn.Module, name: str) -> int:
    """How often a grid is halved before an attention module of a model that keeps its resolution."""
    return 0


@dataclass(frozen=True)
class Family:
    """What is known of a model class.

    Args:
        attention_modules: model -> its self-attention modules by dotted name.
        read_grid: (model, args, kwargs) of a forward -> its token grid; every argument is in kwargs too.
        read_timestep: (args, kwargs) of a forward -> its timestep, 1000 for pure noise where it is known.
        processors: stock processor class -> the class that replaces it.
        text_padding: what the model does with padded text, see `Context`.
        text_free: names of the attention modules that text, and what is pooled of it, has not reached yet:
            those of a first block whose modulation knows the timestep alone.
        halvings: (model, name of an attention module) -> see `Site`.
        is_preparation: the named arguments of a forward -> whether it fills a cache and denoises nothing.
    """

    attention_modules: Callable[[nn.Module], list[tuple[str, Any]]]
    read_grid: Callable[[nn.Module, tuple, dict[str, Any]], TokenGrid]
    read_timestep: Callable[[tuple, dict[str, Any]], Tensor]
    processors: dict[type, type]
    text_padding: TextPadding | None = None
    text_free: tuple[str, ...] = ()
    halvings: Callable[[nn.Module, str], int] = never_halved
    is_preparation: Callable[[dict[str, Any]], bool] = lambda kwargs: False


def family_of(model: nn.Module) -> Family | None:
    """The family of a loaded model; None if its class is not supported. Imports nothing for other models."""
    name = known_name(model, FAMILIES)
    if name is None or "diffusers" not in sys.modules:
        return None
    source: ModuleType = import_module(FAMILIES[name])
    return Family(
        source.attention_modules,
        source.read_grid,
        getattr(source, "read_timestep", timestep_argument),
        source.PROCESSORS,
        getattr(source, "TEXT_PADDING", None),
        getattr(source, "TEXT_FREE", ()),
        getattr(source, "halvings", never_halved),
        getattr(source, "is_preparation", Family.is_preparation),
    )


def find_sites(model: nn.Module, component: str = "") -> list[Site]:
    """The attention modules of a supported diffusers model that run a stock processor or ours, in call order.

    Raises:
        ValueError: if the model's class belongs to no family, it has no self-attention, or all its processors
            are somebody's own.
    """
    family = family_of(model)
    if family is None:
        raise ValueError(f"{type(model).__name__} is not one of the supported models: {', '.join(FAMILIES)}")
    modules = family.attention_modules(model)
    known = {*family.processors, *family.processors.values()}
    found = [(name, module) for name, module in modules if type(module.processor) in known]
    if not modules:
        raise ValueError(f"this {type(model).__name__} has no self-attention of its own to make sparse")
    if not found:
        theirs = sorted({type(module.processor).__name__ for _, module in modules})
        raise ValueError(
            f"the attention of this {type(model).__name__} runs {', '.join(theirs)}, which cannot be made "
            f"sparse; set {', '.join(stock.__name__ for stock in family.processors)} back first"
        )
    halvings = [family.halvings(model, name) for name, _ in found]
    works = _works([module for _, module in found], halvings)
    return [
        Site(
            name,
            component,
            module,
            layer,
            len(found),
            heads_of(module),
            text_free=name in family.text_free,
            halvings=halvings[layer],
            work=works[layer],
        )
        for layer, (name, module) in enumerate(found)
    ]


def _works(modules: list[Any], halvings: list[int]) -> list[float]:
    """Of a dense call of each attention module, as shares of the largest."""
    if not any(halvings):
        return [1.0] * len(modules)
    # Halving leaves a sixteenth of the pairs of tokens, but UNets also widen where they halve.
    works = [module.inner_dim / 16.0**times for module, times in zip(modules, halvings, strict=True)]
    return [work / max(works) for work in works]


def heads_of(module: Any) -> int:
    """The query heads of an attention module."""
    names = ("heads", "num_heads", "num_attention_heads")
    return next(getattr(module, name) for name in names if hasattr(module, name))
