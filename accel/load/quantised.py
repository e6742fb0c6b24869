"""Quantisation of a pipeline's transformers while they are loaded, by diffusers' own backends."""

from __future__ import annotations

from collections.abc import Callable, Collection
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
ON_ACCELERATORS = "bnb-"  # diffusers loads with bitsandbytes on an accelerator only


def require_quantiser(name: str, device: str) -> None:
    """Refuse a backend that is not installed, or does not load where the model is to run.

    Raises:
        LoadError: with the command that installs it, or the names of those that load on a CPU.
    """
    if name not in QUANTISERS:
        raise LoadError(f"--quantize {name}: expected one of {', '.join(QUANTISERS)}")
    if name.startswith(ON_ACCELERATORS) and torch.device(device).type == "cpu":
        others = ", ".join(each for each in QUANTISERS if not each.startswith(ON_ACCELERATORS))
        raise LoadError(f"--quantize {name} needs an accelerator; a CPU can take {others}")
    module, package, _ = QUANTISERS[name]
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise LoadError(f"--quantize {name} needs {package}: pip install {package}")


def quantisation(name: str, dtype: torch.dtype, components: Collection[str]) -> Any:
    """diffusers' configuration that quantises a pipeline's transformers and nothing else.

    Args:
        components: names of all parts of the pipeline.
    """
    from diffusers import PipelineQuantizationConfig

    parts = [part for part in PIPELINE_COMPONENTS if part in components]
    return PipelineQuantizationConfig(quant_mapping=dict.fromkeys(parts, QUANTISERS[name][2](dtype)))
