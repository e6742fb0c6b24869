"""from_sizes: tensors that follow from sizes alone, computed once and whatever surrounds the call."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def from_sizes(maxsize: int = 16) -> Callable[[F], F]:
    """Decorator: results are kept by their arguments, and made outside inference mode and any default device.

    What is kept serves calls to come. A tensor made in inference mode would be refused where gradients are
    recorded, and under `torch.set_default_device` geometry would be spread over two devices.
    """

    def decorate(make: F) -> F:
        @lru_cache(maxsize=maxsize)
        @wraps(make)
        def made(*sizes: Any) -> Any:
            with torch.inference_mode(False), torch._C.DisableTorchFunction():
                return make(*sizes)

        return made  # type: ignore[return-value]

    return decorate
