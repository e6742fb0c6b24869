"""untraced: a function that `torch.compile` runs as it is, without importing the compiler to say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)


def untraced(function: Function) -> Function:
    """As `torch.compiler.disable`, which imports the compiler at once: most of the time `import accel` took.

    PyTorch's own lazy form of it imports the compiler at the first call; a release without it gets the other.
    """
    disable = getattr(torch, "_disable_dynamo", torch.compiler.disable)
    return disable(function)
