"""Quantisation of a pipeline's transformers while they are loaded, by diffusers' own backends."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from accel.load.errors import LoadError
from accel.patches.models import PIPELINE_COMPONENTS


def _bnb_4bit(dtype: torch.dtype) -> Any:
    from diffusers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _bnb_8bit(dtype: torch.dtype) -> Any:
    from diffusers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def _torchao_int8(dtype: torch.dtype) -> Any:
    from diffusers import TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _quanto_int8(dtype: torch.dtype) -> Any:
    from diffusers import QuantoConfig

    return QuantoConfig(weights_dtype="int8")


# Name: the module that must be there, what installs it, and the configuration.
QUANTISERS: dict[str, tuple[str, str, Callable[[torch.dtype], Any]]] = {
    "bnb-4bit": ("bitsandbytes", "bitsandbytes", _bnb_4bit),
    "bnb-8bit": ("bitsandbytes", "bitsandbytes", _bnb_8bit),
    "torchao-int8": ("torchao", "torchao", _torchao_int8),
    "quanto-int8": ("optimum.quanto", "optimum-quanto", _quanto_int8),
}


def require_quantiser(name: str) -> None:
    """Refuse a backend that is not installed.

    Raises:
        LoadError: with the command that installs it.
    """
    if name not in QUANTISERS:
        raise LoadError(f"--quantize {name}: expected one of {', '.join(QUANTISERS)}")
    module, package, _ = QUANTISERS[name]
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise LoadError(f"--quantize {name} needs {package}: pip install {package}")


def quantisation(name: str, dtype: torch.dtype) -> Any:
    """diffusers' configuration that quantises a pipeline's transformers and nothing else.

    Raises:
        LoadError: if the backend is not installed.
    """
    require_quantiser(name)
    from diffusers import PipelineQuantizationConfig

    config = QUANTISERS[name][2](dtype)
    return PipelineQuantizationConfig(quant_mapping=dict.fromkeys(PIPELINE_COMPONENTS, config))
