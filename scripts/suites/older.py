"""A pytest plugin: tests of an older checkout find what they import from the library's `testing_utils`.

What is missing there is taken from the checkout's own, in `src`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def fill(library: str, checkout: Path) -> None:
    """Add the names that only the checkout's `testing_utils` has to the library's."""
    source = checkout / "src" / library / "testing_utils.py"
    if not source.exists():
        return
    if "httpx" not in sys.modules and importlib.util.find_spec("httpx") is None:
        sys.modules["httpx"] = importlib.import_module("httpx2")
    new = importlib.import_module(f"{library}.testing_utils")
    spec = importlib.util.spec_from_file_location(f"{library}.older_testing_utils", source)
    assert spec is not None and spec.loader is not None
    old = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = old
    spec.loader.exec_module(old)
    for name, value in vars(old).items():
        if not hasattr(new, name):
            setattr(new, name, value)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    fill("transformers", early_config.rootpath)
