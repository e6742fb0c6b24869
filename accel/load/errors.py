"""What is checked before spending minutes on loading a model, and the error if it cannot be loaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError

from accel.mistake import Mistake
from accel.recipe.errors import nearest

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
FAILURES = (OSError, ValueError, AttributeError, ImportError, KeyError, TypeError, SafetensorError)
WEIGHT_NAMES = ("pytorch_model", "diffusion_pytorch_model", "model", "consolidated")


class LoadError(Mistake):
    """A model that cannot be loaded; the text gives the likely cause."""


def require_folder(source: str, kind: str, *indexes: str) -> None:
    """Refuse what is certainly not a model of this kind; what is not a path here may be one on the hub.

    Args:
        source: a path or a hub id.
        kind: "diffusers pipeline", for example.
        indexes: the files of which every such folder has one.

    Raises:
        LoadError: if it is empty, a file, a path that is not there, or a folder without the index or with
            pickled weights.
    """
    if not source.strip():
        raise LoadError("the model is an empty name; it takes a folder or a hub id")
    if os.path.isfile(source):
        raise LoadError(f"{source}: is a file; name the folder of the {kind} that it belongs to")
    if not os.path.isdir(source):
        if source.startswith(("/", "./", "../", "~")) or "\\" in source:
            raise LoadError(f"{source}: no such folder")
        return
    folder = Path(source)
    if not any((folder / index).is_file() for index in indexes):
        raise LoadError(f"{source}: is not a {kind}; there is no {' or '.join(indexes)} in it")
    parts = [folder, *sorted(part for part in folder.iterdir() if part.is_dir())]
    for part in parts:
        if pickled := pickled_weights(part):
            raise LoadError(
                f"{part}: its weights are pickles ({', '.join(pickled)}), which can run any code when they "
                "are read; only safetensors are. Load them where you trust them and save the model with "
                "save_pretrained(folder, safe_serialization=True)."
            )


def pickled_weights(folder: Path) -> list[str]:
    """Names of a model's pickled weights in a folder that has no safetensors; empty where it is safe."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if any(name.endswith(".safetensors") for name in names):
        return []
    return [name for name in names if name.endswith(PICKLES) and name.startswith(WEIGHT_NAMES)]


def require_device(device: str) -> None:
    """Refuse a device that is not there before anything is loaded.

    Raises:
        LoadError: names those that are.
    """
    here = devices()
    try:
        asked = torch.device(device)
    except RuntimeError:
        raise LoadError(f"device {device!r} is unknown; {nearest(device, here)}") from None
    count = here.get(asked.type)
    if count is None:
        known = ", ".join(here)
        raise LoadError(f"device {device!r}: PyTorch sees no {asked.type} device here; there is {known}")
    if asked.index is not None and asked.index >= count:
        raise LoadError(f"device {device!r}: there are only {count} of that kind, counted from 0")


def devices() -> dict[str, int]:
    """The kinds of devices PyTorch sees here that models run on, and how many there are of each."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return {"cpu": 1} | ({accelerator.type: torch.accelerator.device_count()} if accelerator else {})


def why(error: Exception) -> str:
    """The first line of a library's error, with this project's advice."""
    line = (str(error).splitlines() or [""])[0]
    if not isinstance(error, OSError | ValueError):
        line = f"{type(error).__name__}: {line}"
    if "custom code" in str(error) or "trust_remote_code" in str(error):
        return f"{line} Code that comes with a model is never run here."
    return line
