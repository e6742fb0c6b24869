"""Load a diffusers pipeline: the embedded demo, a folder, or a model of the Hugging Face hub."""

from __future__ import annotations

import os
from typing import Any

import torch

from accel.demo.paths import DEMO_VIDEO
from accel.load.errors import FAILURES, LoadError, require_device, require_folder, why


def load_pipeline(model: str, device: str | None = None, dtype: torch.dtype | None = None) -> Any:
    """The pipeline, on its device.

    Args:
        model: "demo", a folder with a model_index.json, or a hub id such as
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers".
        device: "cuda", "cpu", ...; none picks the best one there is.
        dtype: none is bfloat16 on an accelerator and float32 on the CPU.

    Raises:
        LoadError: if it cannot be had. Only safetensors weights are read, never pickles, and no code that
            comes with a model is run.
    """
    from diffusers import DiffusionPipeline

    device = device or best_device()
    require_device(device)
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    if model == "demo-llm":
        raise LoadError("'demo-llm' is a language model (accel complete); the demo to generate is 'demo'")
    source = str(DEMO_VIDEO) if model == "demo" else model
    require_folder(source, "diffusers pipeline", "model_index.json")
    try:
        pipe = DiffusionPipeline.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except FAILURES as error:
        raise LoadError(f"cannot load {model!r}: {why(error)} {_advice(model)}") from error
    return pipe.to(device)


def best_device() -> str:
    """The name of the device to run on: an accelerator if torch sees one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else "cpu"


def _advice(model: str) -> str:
    if os.path.isdir(model):
        return "The folder must hold a whole pipeline with safetensors weights."
    return (
        "It is neither 'demo' nor a folder here; as a hub id it needs a network and an existing repository."
    )
