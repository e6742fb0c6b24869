"""Continuous batching, known by its paged cache: which keys belong to which text is not in the mask."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

# Looked up and not imported: where nobody has loaded it, nobody holds such a cache.
DEFINED_IN = "transformers.generation.continuous_batching.cache"

CONTINUOUS_BATCHING = (
    "continuous batching keeps keys in pages that block-sparse attention cannot read; "
    "call restore_model(model) first, or generate without it"
)


def refuse_paged(arguments: Iterable[Any]) -> None:
    """Raise if one of a call's arguments is a paged cache, by whatever name.

    Raises:
        RuntimeError: if so.
    """
    paged: Any = getattr(sys.modules.get(DEFINED_IN), "PagedAttentionCache", None)
    if paged is not None and any(isinstance(argument, paged) for argument in arguments):
        raise RuntimeError(CONTINUOUS_BATCHING)
