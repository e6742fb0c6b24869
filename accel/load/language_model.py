"""Load a language model and its tokenizer: the embedded demo, a folder, or a model of the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from accel.load.errors import FAILURES, LoadError, require_device, require_folder, why
from accel.load.gguf import gguf_of
from accel.load.pipeline import best_device

DEMO_LLM: Path = Path(__file__).parents[1] / "demo" / "needle-llama"


class LanguageModel(NamedTuple):
    """A transformers model, on its device, and its tokenizer."""

    model: Any
    tokenizer: Any


def load_language_model(
    model: str, device: str | None = None, dtype: torch.dtype | None = None
) -> LanguageModel:
    """The model, on its device, and its tokenizer.

    Args:
        model: "demo-llm", "smollm2", a .gguf file, a folder with a config.json, or a hub id such as
            "Qwen/Qwen3-0.6B". The weights of a GGUF file are unpacked to `dtype`.
        device: "cuda", "cpu", ...; None picks the best one there is.
        dtype: None is bfloat16 on an accelerator and float32 on the CPU.

    Raises:
        LoadError: if it cannot be loaded. Only safetensors weights are read, never pickles, and no code that
            comes with a model is run.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = device or best_device()
    require_device(device)
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    if model == "demo":
        raise LoadError("'demo' is a video pipeline (accel generate); the demo to complete is 'demo-llm'")
    file = gguf_of(model)
    if file is not None:
        source = str(file.parent)
    else:
        source = str(DEMO_LLM) if model == "demo-llm" else model
        require_folder(source, "transformers model", "config.json")
    # Without an explicit False, transformers would ask at the terminal whether to run a model's own code.
    safe: dict[str, Any] = {"trust_remote_code": False}
    kind = {"use_safetensors": True} if file is None else {"gguf_file": file.name}
    # Reading GGUF raises whatever the reader stumbles over.
    failures: tuple[type[Exception], ...] = FAILURES if file is None else (Exception,)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **safe, **({} if file is None else kind))
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **kind, **safe)
    except failures as error:
        advice = (
            _advice(source) if file is None else "transformers must know the architecture of a GGUF file."
        )
        raise LoadError(f"cannot load {model!r}: {why(error)} {advice}") from error
    return LanguageModel(loaded.to(device).eval(), tokenizer)


def _advice(source: str) -> str:
    if os.path.isdir(source):
        return "The folder must hold a causal language model with safetensors weights and its tokenizer."
    return (
        "It is neither 'demo-llm', 'smollm2' nor a folder here; as a hub id it needs a network and a real "
        "repository."
    )
