"""A pipeline's models without their weights: built from the configuration files on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from accel.load.errors import LoadError, why
from accel.load.index import PipelineIndex, read_index

# Pixels of a latent frame and frames of a latent one, where the VAE's configuration does not say it.
LATENT_SCALES = {
    "LTXVideoTransformer3DModel": (8, 32),
    "LTX2VideoTransformer3DModel": (8, 32),
    "MochiTransformer3DModel": (6, 8),
    "CosmosTransformer3DModel": (8, 8),
    "HunyuanVideo15Transformer3DModel": (4, 16),
    "MiniMaxH3Transformer3DModel": (4, 16),
    "HunyuanImageTransformer2DModel": (1, 32),
    "ErnieImageTransformer2DModel": (1, 16),
    "QwenImage21Transformer2DModel": (1, 16),
}

# What a class has no usable default for, as in the weights that were released.
RELEASED = {"EasyAnimateTransformer3DModel": {"in_channels": 16, "out_channels": 16, "patch_size": 2}}


@dataclass(frozen=True)
class EmptyPipeline:
    """Supported models by component name, on the meta device, and the VAE's configuration."""

    models: dict[str, nn.Module]
    vae: dict[str, Any]

    @property
    def classes(self) -> set[str]:
        """The class names of the models."""
        return {type(model).__name__ for model in self.models.values()}


def empty_pipeline(model: str) -> EmptyPipeline:
    """The models of a pipeline without weights; a hub id fetches its small configuration files only.

    Raises:
        LoadError: if there is no such pipeline, or it holds no supported model.
    """
    index = read_index(model)
    models = {
        component: _on_meta(index, component, class_name) for component, class_name in index.models.items()
    }
    vae = index.config("vae") if "vae" in index.components else {}
    return EmptyPipeline(models, vae)


def latent_shape(pipeline: EmptyPipeline, frames: int, height: int, width: int) -> tuple[int, int, int]:
    """(frames, rows, columns) of the latent video that a size in frames and pixels becomes."""
    known = (LATENT_SCALES[name] for name in pipeline.classes if name in LATENT_SCALES)
    usual_temporal, usual_spatial = next(known, (4, 8))
    temporal = _number(pipeline.vae, "scale_factor_temporal", "temporal_compression_ratio") or usual_temporal
    spatial = _number(pipeline.vae, "scale_factor_spatial", "spatial_compression_ratio") or usual_spatial
    return (frames - 1) // temporal + 1, height // spatial, width // spatial


def _number(config: dict[str, Any], *names: str) -> int | None:
    """The first of the named values that is a positive whole number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _on_meta(index: PipelineIndex, component: str, class_name: str) -> nn.Module:
    written = index.config(component)
    stated = {name: value for name, value in written.items() if value is not None}
    config = {**written, **RELEASED.get(class_name, {}), **stated}
    cls = getattr(import_module("diffusers"), class_name)
    try:
        with torch.device("meta"):
            return cls.from_config(config)
    except Exception as error:  # Whatever a library's constructor stumbles over, the configuration says it.
        raise LoadError(
            f"{index.model}: {component}/config.json makes no {class_name}: {why(error)}"
        ) from error
