"""Which tokens of a prompt are of images or videos: those whose ids the model's configuration names."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

NAMES = "image_token_id", "video_token_id"
_ANNOUNCED: ContextVar[Tensor | None] = ContextVar("accel_vision", default=None)


def announce(config: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Leave word, for the attention calls of a forward, of which of its tokens are vision tokens."""
    _ANNOUNCED.set(vision_tokens(config, args, kwargs))


def take_back() -> None:
    """Forget what was announced: the forward is over."""
    _ANNOUNCED.set(None)


def announced(q: Tensor) -> Tensor | None:
    """Bool [B, M], which of the queries [B, H, M, D] are of vision tokens; None where nobody said."""
    vision = _ANNOUNCED.get()
    return vision if vision is not None and vision.shape == (q.shape[0], q.shape[2]) else None


def vision_tokens(config: Any, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """Bool [B, N], from the arguments of a forward of several tokens.

    None for a model without ids for them, and where embeddings are passed in place of ids.
    """
    ids = kwargs.get("input_ids", args[0] if args else None)
    names = [number for name in NAMES if isinstance(number := getattr(config, name, None), int)]
    if (
        not names
        or not isinstance(ids, Tensor)
        or ids.ndim != 2
        or ids.is_floating_point()
        or ids.shape[1] < 2
    ):
        return None
    return torch.stack([ids == number for number in names]).any(dim=0)
