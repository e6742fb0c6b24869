"""PipelineIndex: the classes a pipeline is made of, read before any of its weights."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from os.path import isdir
from pathlib import Path
from typing import Any

from accel.demo.paths import DEMO_VIDEO
from accel.load.errors import LoadError, require_folder
from accel.patches.diffusers.family import FAMILIES
from accel.patches.models import PIPELINE_COMPONENTS

INDEXES = ("model_index.json", "modular_model_index.json")


@dataclass(frozen=True)
class PipelineIndex:
    """What the model_index.json of a pipeline says, or the modular_model_index.json of a modular one.

    Args:
        model: as the user named it.
        class_name: of the pipeline.
        models: class names of its supported models by component.
        components: library and class name of every part by name.
        places: of the parts of a modular pipeline, the folder or hub id they are in, and the subfolder.
    """

    model: str
    class_name: str
    models: dict[str, str]
    components: dict[str, tuple[str, str]]
    places: dict[str, tuple[str, str]] = field(default_factory=dict)

    def config(self, component: str) -> dict[str, Any]:
        """The configuration of one of the models.

        Raises:
            LoadError: if it cannot be read.
        """
        place, folder = self.places.get(component, (self.model, component))
        return read_json(place, f"{folder}/config.json" if folder else "config.json")


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
        require_folder(model, "diffusers pipeline", *INDEXES)
    data = _read_either(model)
    listed = {name: part for name, part in data.items() if _is_part(part)}
    places = {name: place for name, part in listed.items() if (place := _place_of(model, part)) is not None}
    parts = {name: _class_of(part) for name, part in listed.items() if len(part) == 2 or name in places}
    models = {
        name: parts[name][1]
        for name in PIPELINE_COMPONENTS
        if parts.get(name, ("", ""))[0] == "diffusers" and parts[name][1] in FAMILIES
    }
    if not models:
        classes = ", ".join(sorted({class_name for _, class_name in parts.values()})) or "nothing"
        raise LoadError(f"{model}: holds no supported model ({classes}); supported are {', '.join(FAMILIES)}")
    return PipelineIndex(model, str(data.get("_class_name")), models, parts, places)


def _read_either(model: str) -> dict[str, Any]:
    """The index of an ordinary pipeline, or else of a modular one."""
    usual, modular = INDEXES
    if isdir(model):
        return read_json(model, usual if (Path(model) / usual).is_file() else modular)
    try:
        return read_json(model, usual)
    except LoadError:
        with suppress(LoadError):
            return read_json(model, modular)
        raise


def _is_part(part: Any) -> bool:
    """Whether an entry is [library, class], or of a modular index [library or null, class or null, where]."""
    if not isinstance(part, list) or len(part) not in (2, 3):
        return False
    return all(isinstance(word, str) for word in (_class_of(part) if len(part) == 3 else part))


def _class_of(part: list[Any]) -> tuple[str, str]:
    """The library and the class; of a part that was not loaded when it was written, the intended ones."""
    hint = part[2].get("type_hint") if len(part) == 3 and isinstance(part[2], dict) else None
    library, name = part[:2] if part[0] is not None or not isinstance(hint, list) else (*hint, None)[:2]
    return library, name


def _place_of(model: str, part: list[Any]) -> tuple[str, str] | None:
    """Where a part of a modular pipeline is: in the pipeline's folder, elsewhere, or nowhere (None)."""
    where = part[2] if len(part) == 3 and isinstance(part[2], dict) else {}
    folder, place = str(where.get("subfolder") or ""), where.get("pretrained_model_name_or_path")
    if folder and (Path(model) / folder / "config.json").is_file():
        return model, folder
    return None if place is None else (str(place), folder)


def read_json(model: str, name: str) -> dict[str, Any]:
    """One configuration file of a pipeline.

    Raises:
        LoadError: if the file is missing, or is not a JSON object.
    """
    source = DEMO_VIDEO if model == "demo" else Path(model)
    path = source / name if isdir(source) else _from_hub(model, name)
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
