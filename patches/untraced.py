"""untraced: a function that `torch.compile` does not trace, marked without importing the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)
WHOLE = (
    "an accelerated model is never one graph: its hooks read each forward outside of the compiler. Leave out "
    "fullgraph=True, or compile the blocks: model.compile_repeated_blocks(fullgraph=True)"
)


def untraced(function: Function) -> Function:
    """As `torch.compiler.disable`, which imports the compiler at once: most of the time `import accel` took.

    PyTorch's own lazy form of it imports the compiler at the first call; a release without it gets the other.
    """
    disable = getattr(torch, "_disable_dynamo", torch.compiler.disable)
    return disable(function)


def say_why_not_whole() -> None:
    """Say what to do instead where a hook is traced: an error under `fullgraph=True`, else nothing new."""
    if torch.compiler.is_dynamo_compiling():
        torch._dynamo.graph_break(msg=WHOLE)
