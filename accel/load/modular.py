"""Modular pipelines: what their blocks take, and loading the parts that the blocks of one request need."""

from __future__ import annotations

from collections.abc import Collection
from inspect import Parameter, signature
from typing import Any

import torch

from accel.load.errors import PICKLES, LoadError, why
from accel.load.quantised import QUANTISERS
from accel.patches.models import PIPELINE_COMPONENTS

# Rewrites prompts with its own language model; left out where that model is not part of the pipeline.
OPTIONAL_BLOCKS = ("prompt_upsampler",)


def is_modular(pipeline: type) -> bool:
    """Whether a pipeline is made of blocks, as `MiniMaxH3ModularPipeline` is."""
    return getattr(pipeline, "default_blocks_name", None) is not None


def blocks_of(pipeline: type, given: Collection[str] = ()) -> Any:
    """The blocks of a modular pipeline; with `given` inputs, only those that run with them."""
    import diffusers

    every = getattr(diffusers, pipeline.default_blocks_name)()  # type: ignore[attr-defined]
    return every.get_execution_blocks(**dict.fromkeys(given, True)) if given else every


def inputs_of(pipeline: type, given: Collection[str] = ()) -> dict[str, Parameter]:
    """The arguments of a pipeline's call, by name.

    Args:
        given: for a modular pipeline, the inputs of the request, which decide what its blocks need.
    """
    if not is_modular(pipeline):
        return dict(signature(pipeline.__call__).parameters)
    named = [each for each in blocks_of(pipeline, given).inputs if each.name is not None]
    return {
        each.name: Parameter(
            each.name,
            Parameter.POSITIONAL_OR_KEYWORD,
            default=Parameter.empty if each.required and each.default is None else each.default,
        )
        for each in named
    }


def load_modular(
    source: str,
    pipeline: type,
    given: Collection[str],
    dtype: torch.dtype,
    *,
    quantize: str | None = None,
    variant: str | None = None,
) -> Any:
    """A modular pipeline with the parts that a request needs, on the CPU.

    Args:
        source: a folder or a hub id.
        given: names of the request's inputs.

    Raises:
        LoadError: if a part is missing or cannot be read; safetensors are read, and nothing is run.
    """
    blocks = blocks_of(pipeline, given)
    pipe = pipeline(blocks=blocks, pretrained_model_name_or_path=source)
    absent = _absent(pipe)
    for name in [name for name in OPTIONAL_BLOCKS if name in absent and name in blocks.sub_blocks]:
        blocks.sub_blocks.pop(name)
        pipe = pipeline(blocks=blocks, pretrained_model_name_or_path=source)
        absent = _absent(pipe)
    if absent:
        raise LoadError(f"cannot load {source!r}: its index does not say where {', '.join(absent)} is")
    config = None if quantize is None else QUANTISERS[quantize][2](dtype)
    for name in pipe.pretrained_component_names:
        more = {"quantization_config": config} if config is not None and name in PIPELINE_COMPONENTS else {}
        part = _part(source, pipe.get_component_spec(name), dtype, variant, more)
        pipe.update_components(**{name: part})
    return pipe


def _absent(pipe: Any) -> list[str]:
    """Names of the parts that the index gives no place for."""
    specs = [pipe.get_component_spec(name) for name in pipe.pretrained_component_names]
    return [spec.name for spec in specs if spec.pretrained_model_name_or_path is None]


def _part(source: str, spec: Any, dtype: torch.dtype, variant: str | None, more: dict[str, Any]) -> Any:
    place = str(spec.pretrained_model_name_or_path)
    if place.endswith(PICKLES):
        raise LoadError(f"cannot load {source!r}: {spec.name} is a pickle ({place}); safetensors are read")
    kind = spec.type_hint
    weights = kind is None or issubclass(kind, torch.nn.Module)
    chosen: dict[str, Any] = {"dtype": dtype, "use_safetensors": True} if weights else {}
    if weights and variant is not None:
        chosen["variant"] = variant
    if kind is None or kind.__module__.startswith("transformers."):
        chosen["trust_remote_code"] = False
    try:
        return spec.load(**chosen, **more)
    except Exception as error:  # three libraries read files of anybody's
        raise LoadError(f"cannot load {source!r}: {why(error)}") from error


def offloaded_modular(pipe: Any, offload: str, device: str) -> Any:
    """A modular pipeline whose weights are moved to the device when they are needed."""
    from diffusers import ComponentsManager
    from diffusers.hooks import apply_group_offloading

    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    if offload == "model":
        manager: Any = ComponentsManager()
        for name, module in modules.items():
            manager.add(name, module)
        manager.enable_auto_cpu_offload(device=device)
        return pipe
    place = torch.device(device)
    for module in modules.values():
        apply_group_offloading(
            module, onload_device=place, offload_type="leaf_level", use_stream=place.type == "cuda"
        )
    return pipe
