"""A pytest plugin: diffusers' compilation tests run on a CPU, which they would leave out.

Graphs are traced as on an accelerator and run by `aot_eager`, since C++ takes a minute to compile for each.
"""

from __future__ import annotations

import functools

import pytest
import torch

ABSENT = "requires a hardware accelerator"
LEFT_OUT = ("offload", "gguf", "aot")
WHY = "needs an accelerator, a file of the hub, or C++ that takes minutes to compile"


def pytest_configure() -> None:
    torch.compile = functools.partial(torch.compile, backend="aot_eager")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("compile"):
            if any(word in item.name for word in LEFT_OUT):
                item.add_marker(pytest.mark.skip(reason=WHY))
            for node in item.listchain():
                node.own_markers = [mark for mark in node.own_markers if not wants_accelerator(mark)]


def wants_accelerator(mark: pytest.Mark) -> bool:
    """Whether a mark leaves a test out because there is no accelerator."""
    return mark.name == "skipif" and ABSENT in mark.kwargs.get("reason", "")
