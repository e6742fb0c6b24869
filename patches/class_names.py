"""Class names: which of the names we know an object's class has.

By name, since a class that we know need not be loaded; and along the parents, since a user subclasses models
and FSDP2 gives a sharded model's class another name: `fully_shard` makes it an `FSDPWanTransformer3DModel`.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any


def known_name(thing: Any, names: Container[str]) -> str | None:
    """The name, among `names`, of an object's class or of its nearest parent that has one; else None."""
    return next((cls.__name__ for cls in type(thing).__mro__ if cls.__name__ in names), None)
