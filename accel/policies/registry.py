"""The methods a recipe can name: built in, registered in Python, or from installed packages.

A package offers its methods under the entry point group `sparse_accel.policies`, each by the name that
recipes use. All methods are imported when a recipe first names them.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import TypeVar

from accel.policies.policy import Policy

GROUP = "sparse_accel.policies"
POLICIES: dict[str, type[Policy] | str] = {
    "dense": "accel.policies.dense:Dense",
    "radial": "accel.policies.radial:Radial",
    "draft": "accel.policies.draft:Draft",
    "permuted": "accel.policies.permuted:Permuted",
    "hip": "accel.policies.hip:Hip",
    "compose": "accel.policies.compose:Composed",
    "per_head": "accel.policies.per_head:PerHead",
    "stored": "accel.policies.stored:Stored",
}

P = TypeVar("P", bound=type[Policy])


def register_policy(policy: P) -> P:
    """Let recipes name your own method; usable as a decorator.

    Args:
        policy: a subclass of `Policy` and a dataclass. Its fields are what a recipe can set, and the default
            of its field `method` is the name that recipes use. Defining the class again replaces it.

    Returns:
        The class itself.

    Raises:
        TypeError: if it is not such a class.
        ValueError: if the name belongs to another method.
    """
    if not (isinstance(policy, type) and issubclass(policy, Policy) and is_dataclass(policy)):
        raise TypeError(f"register_policy takes a dataclass that inherits from Policy, got {policy!r}")
    name = getattr(policy, "method", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{policy.__name__} needs a name for recipes: a field such as `method: str = 'mine'`")
    taken = _imported(name) or policy
    if _full_name(taken) != _full_name(policy):
        raise ValueError(f"the method {name!r} is {_full_name(taken)} already")
    POLICIES[name] = policy
    return policy


def find_policy(name: str) -> type[Policy] | None:
    """The method of a name, imported from an installed package if need be; None if nobody offers it.

    Raises:
        ValueError: if a package offers it and cannot be imported, or what it offers cannot be registered.
    """
    if name not in POLICIES and name in _offered():
        entry = _offered()[name]
        try:
            register_policy(entry.load())
        except Exception as error:
            raise ValueError(
                f"the method {name!r} of the installed package behind {entry.value!r} cannot be used: "
                f"{type(error).__name__}: {error}"
            ) from error
    return _imported(name)


def registered_policies() -> dict[str, type[Policy]]:
    """Our methods and those that are registered by now, imported, by name."""
    return {name: policy for name in list(POLICIES) if (policy := _imported(name)) is not None}


def policy_names() -> list[str]:
    """Every name that a recipe can use."""
    return sorted({*POLICIES, *_offered()})


def _imported(name: str) -> type[Policy] | None:
    found = POLICIES.get(name)
    if isinstance(found, str):
        found = POLICIES[name] = resolve_name(found)
    return found


def _full_name(policy: type[Policy]) -> str:
    return f"{policy.__module__}.{policy.__qualname__}"


@cache
def _offered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
