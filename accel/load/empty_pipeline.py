"""A pipeline's models without their weights: built from the configuration files on the meta device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accel.demo.paths import DEMO_VIDEO
from accel.load.pipeline import LoadError
from accel.patches.diffusers.family import FAMILIES
from accel.patches.models import PIPELINE_COMPONENTS


@dataclass(frozen=True)
class EmptyPipeline:
    """Supported models by component name, on the meta device, and the VAE's configuration."""

    models: dict[str, nn.Module]
    vae: dict[str, Any]


def empty_pipeline(model: str) -> EmptyPipeline:
    """The models of a pipeline without weights; a hub id fetches its small configuration files only.

    Raises:
        LoadError: if there is no such pipeline, or it holds no supported model.
    """
    source = DEMO_VIDEO if model == "demo" else Path(model)
    index = _read_json(source, model, "model_index.json")
    models = {}
    for component in PIPELINE_COMPONENTS:
        library, class_name = index.get(component) or (None, None)
        if library == "diffusers" and class_name in FAMILIES:
            models[component] = _on_meta(class_name, _read_json(source, model, f"{component}/config.json"))
    if not models:
        classes = ", ".join(
            sorted({part[1] for part in index.values() if isinstance(part, list) and part[1]})
        )
        raise LoadError(f"{model}: holds no supported model ({classes}); supported are {', '.join(FAMILIES)}")
    vae = _read_json(source, model, "vae/config.json") if index.get("vae") else {}
    return EmptyPipeline(models, vae)


def latent_shape(pipeline: EmptyPipeline, frames: int, height: int, width: int) -> tuple[int, int, int]:
    """(frames, rows, columns) of the latent video that a size in frames and pixels becomes."""
    temporal = pipeline.vae.get("scale_factor_temporal", 4)
    spatial = pipeline.vae.get("scale_factor_spatial", 8)
    return (frames - 1) // temporal + 1, height // spatial, width // spatial


def _on_meta(class_name: str, config: dict[str, Any]) -> nn.Module:
    cls = getattr(import_module("diffusers"), class_name)
    with torch.device("meta"):
        return cls.from_config(config)


def _read_json(source: Path, model: str, name: str) -> dict[str, Any]:
    path = source / name if source.is_dir() else _from_hub(model, name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise LoadError(f"{model}: {name} cannot be read ({error})") from error


def _from_hub(model: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise LoadError(
            f"{model!r} is neither 'demo' nor a folder here, and cannot be had from the hub: {reason}"
        ) from error
