"""PipelineIndex: which classes a pipeline is made of, read before any of its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.demo.paths import DEMO_VIDEO
from accel.load.errors import LoadError, require_folder
from accel.patches.diffusers.family import FAMILIES
from accel.patches.models import PIPELINE_COMPONENTS


@dataclass(frozen=True)
class PipelineIndex:
    """What the model_index.json of a pipeline says.

    Args:
        model: as the user named it.
        class_name: of the pipeline.
        models: class names of its supported models by component.
        components: library and class name of every part by name.
    """

    model: str
    class_name: str
    models: dict[str, str]
    components: dict[str, tuple[str, str]]


def read_index(model: str) -> PipelineIndex:
    """The classes of a pipeline; a hub id fetches its small model_index.json only.

    Args:
        model: "demo", a folder or a hub id.

    Raises:
        LoadError: if there is no such pipeline, or it holds no supported model.
    """
    if model == "demo-llm":
        raise LoadError("'demo-llm' is a language model (accel complete); the demo to generate is 'demo'")
    if model != "demo":
        require_folder(model, "diffusers pipeline", "model_index.json")
    data = read_json(model, "model_index.json")
    parts = {name: tuple(part) for name, part in data.items() if _is_part(part)}
    models = {
        name: parts[name][1]
        for name in PIPELINE_COMPONENTS
        if parts.get(name, ("", ""))[0] == "diffusers" and parts[name][1] in FAMILIES
    }
    if not models:
        classes = ", ".join(sorted({class_name for _, class_name in parts.values()})) or "nothing"
        raise LoadError(f"{model}: holds no supported model ({classes}); supported are {', '.join(FAMILIES)}")
    return PipelineIndex(model, str(data.get("_class_name")), models, parts)


def _is_part(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and all(isinstance(word, str) for word in part)


def read_json(model: str, name: str) -> dict[str, Any]:
    """One configuration file of a pipeline.

    Raises:
        LoadError: if the file is missing, or is not a JSON object.
    """
    source = DEMO_VIDEO if model == "demo" else Path(model)
    path = source / name if source.is_dir() else _from_hub(model, name)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{model}: {name} cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise LoadError(f"{model}: {name} cannot be read (expected an object, got {type(data).__name__})")
    return data


def _from_hub(model: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LoadError(
            f"{model!r} is neither 'demo' nor a folder here, and cannot be loaded from the hub: {reason}"
        ) from error
