"""Load a diffusers pipeline: the embedded demo, a folder, or a model of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from accel.demo.paths import DEMO_VIDEO


class LoadError(ValueError):
    """A model that cannot be loaded, told with the likely cause."""


def load_pipeline(model: str, device: str | None = None, dtype: torch.dtype | None = None) -> Any:
    """The pipeline, on its device.

    Args:
        model: "demo", a folder with a model_index.json, or a hub id such as
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers".
        device: "cuda", "cpu", ...; none picks the best one there is.
        dtype: none is bfloat16 on an accelerator and float32 on the CPU.

    Raises:
        LoadError: if it cannot be had. Only safetensors weights are read, never pickles.
    """
    from diffusers import DiffusionPipeline

    device = device or best_device()
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    source = str(DEMO_VIDEO) if model == "demo" else model
    if Path(source).is_dir() and not (Path(source) / "model_index.json").is_file():
        raise LoadError(f"{source}: is no diffusers pipeline; there is no model_index.json in it")
    try:
        pipe = DiffusionPipeline.from_pretrained(source, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot load {model!r}: {str(error).splitlines()[0]} {_advice(model)}") from error
    return pipe.to(device)


def best_device() -> str:
    """The name of the device to run on: an accelerator if torch sees one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else "cpu"


def _advice(model: str) -> str:
    if Path(model).exists():
        return "The folder must hold a whole pipeline with safetensors weights."
    return (
        "It is neither 'demo' nor a folder here; as a hub id it needs a network and an existing repository."
    )
