"""Load a diffusers pipeline: the embedded demo, a folder, or a model of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import torch

from accel.demo.paths import DEMO_VIDEO
from accel.load.errors import FAILURES, LoadError, require_device, require_folder, why
from accel.load.index import INDEXES, read_json
from accel.load.modular import is_modular, load_modular, offloaded_modular
from accel.load.quantised import quantisation, require_quantiser


def load_pipeline(
    model: str,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    *,
    pipeline_class: type | None = None,
    offload: str | None = None,
    quantize: str | None = None,
    variant: str | None = None,
    given: Collection[str] = ("prompt",),
) -> Any:
    """The pipeline, on its device.

    Args:
        model: "demo", a folder with a model_index.json, or a hub id such as
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers".
        device: "cuda", "cpu", ...; None picks the best one there is.
        dtype: None is bfloat16 on an accelerator and float32 on the CPU.
        pipeline_class: a class of diffusers; None takes the one that the model names.
        offload: "model", "group" or "sequential": keep weights in main memory until they are needed.
        quantize: a key of `QUANTISERS`: quantise the transformers' weights while they are loaded.
        variant: of the weight files, for example "fp16".
        given: of a modular pipeline, names of the inputs of its requests; only what they need is loaded.

    Raises:
        LoadError: if it cannot be loaded. Only safetensors weights are read, never pickles, and no code that
            comes with a model is run.
    """
    from diffusers import DiffusionPipeline

    device = device or best_device()
    require_device(device)
    require_offload(offload, device)
    if quantize is not None:
        require_quantiser(quantize, device)
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    if model == "demo-llm":
        raise LoadError("'demo-llm' is a language model (accel complete); the demo to generate is 'demo'")
    source = str(DEMO_VIDEO) if model == "demo" else model
    require_folder(source, "diffusers pipeline", *INDEXES)
    if pipeline_class is not None and is_modular(pipeline_class):
        pipe = load_modular(source, pipeline_class, given, dtype, quantize=quantize, variant=variant)
        return offloaded(pipe, offload, device)
    cls: Any = pipeline_class or DiffusionPipeline
    more = {}
    if quantize is not None:
        parts = read_json(model, "model_index.json")
        more = {"quantization_config": quantisation(quantize, dtype, parts)}
    try:
        pipe = cls.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, variant=variant, **more
        )
    except FAILURES as error:
        raise LoadError(f"cannot load {model!r}: {why(error)} {_advice(source)}") from error
    return offloaded(pipe, offload, device)


def offloaded(pipe: Any, offload: str | None, device: str) -> Any:
    """The pipeline, with its weights on the device or moved there when they are needed."""
    if offload is not None and is_modular(type(pipe)):
        return offloaded_modular(pipe, offload, device)
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif offload == "group":
        place = torch.device(device)
        pipe.enable_group_offload(
            onload_device=place, offload_type="leaf_level", use_stream=place.type == "cuda"
        )
    else:
        return pipe.to(device)
    return pipe


def require_offload(offload: str | None, device: str) -> None:
    """Refuse to offload to the device on which the model runs.

    Raises:
        LoadError: if the device is the CPU.
    """
    if offload in ("model", "sequential") and torch.device(device).type == "cpu":
        raise LoadError(
            f"--offload {offload} needs an accelerator to bring the weights to; this runs on the CPU"
        )


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
