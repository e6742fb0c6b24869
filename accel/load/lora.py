"""Load LoRA weights into a pipeline: safetensors only, at the scale they were trained for."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.load.errors import PICKLES, LoadError

# What training code other than peft's writes next to its weights (mit-han-lab/radial-attention).
SCALE_FILE = "lora_config.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Lora:
    """Low-rank weights to add.

    Args:
        source: a folder, a .safetensors file, or a hub id.
        scale: their weight; None takes `lora_alpha / lora_rank` of a `lora_config.json` beside them, or 1.
    """

    source: str
    scale: float | None = None

    @classmethod
    def parse(cls, text: str) -> Lora:
        """`SOURCE` or `SOURCE=SCALE`."""
        source, equals, scale = text.rpartition("=")
        if not equals:
            return cls(text)
        try:
            lora = cls(source, float(scale))
        except ValueError:
            lora = cls("")
        if not lora.source.strip() or not math.isfinite(lora.scale or 0):
            raise LoadError(f"--lora {text!r}: expected SOURCE or SOURCE=SCALE, for example mine=0.8")
        return lora


def load_loras(pipe: Any, loras: Sequence[Lora]) -> dict[str, float]:
    """Add LoRA weights to a pipeline and turn them on, all at once.

    Returns:
        The scale of each adapter, by the name it got.

    Raises:
        LoadError: if a source cannot be read, or its weights do not belong to any of the pipeline's models.
    """
    if loras and not hasattr(pipe, "load_lora_weights"):
        raise LoadError(f"{type(pipe).__name__} takes no LoRA weights")
    scales: dict[str, float] = {}
    for number, lora in enumerate(loras):
        name = f"lora_{number}"
        _load(pipe, lora, name)
        scales[name] = _trained_scale(lora.source) if lora.scale is None else lora.scale
    if scales:
        pipe.set_adapters(list(scales), list(scales.values()))
    return scales


def _load(pipe: Any, lora: Lora, name: str) -> None:
    folder, file = locate(lora.source)
    chosen = {} if file is None else {"weight_name": file}
    try:
        pipe.load_lora_weights(folder, adapter_name=name, use_safetensors=True, **chosen)
    except Exception as error:  # a file of anybody's, read by three libraries, or a network
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise LoadError(f"cannot load LoRA weights from {lora.source!r}: {why}") from error
    if not any(name in adapters for adapters in pipe.get_list_adapters().values()):
        models = ", ".join(sorted(pipe.components))
        raise LoadError(f"the LoRA weights of {lora.source!r} fit none of {type(pipe).__name__}'s {models}")


def locate(source: str) -> tuple[str, str | None]:
    """(folder or hub id, file in it or None for the usual one).

    Raises:
        LoadError: if there is no such file or folder and this is not a hub id, or other files are there.
    """
    path = Path(source)
    if os.path.isfile(source):
        if path.suffix != ".safetensors":
            raise LoadError(
                f"{source}: LoRA weights are read from .safetensors only, got {path.suffix or 'none'}"
            )
        return str(path.parent), path.name
    if not os.path.isdir(source):
        if path.suffix in (".safetensors", *PICKLES) or not HUB_ID.fullmatch(source):
            raise LoadError(
                f"{source}: no such file or folder of LoRA weights, and not a hub id (OWNER/NAME)"
            )
        return source, None
    files = sorted(file.name for file in path.glob("*.safetensors"))
    if len(files) != 1:
        raise LoadError(f"{source}: expected one .safetensors file in this folder, found {files or 'none'}")
    return source, files[0]


def _trained_scale(source: str) -> float:
    path = Path(source)
    config = (path if os.path.isdir(source) else path.parent) / SCALE_FILE
    if not config.is_file():
        return 1.0
    try:
        data = json.loads(config.read_text())
        return float(data["lora_alpha"]) / float(data["lora_rank"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise LoadError(f"{config}: expected the numbers lora_alpha and lora_rank, rank not 0") from error
