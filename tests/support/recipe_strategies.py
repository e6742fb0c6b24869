"""Hypothesis strategies for whatever a recipe can say, from the registries: a new method is drawn too."""

from __future__ import annotations

import types
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from accel.policies import registered_policies
from accel.policies.compose import Composed
from accel.policies.policy import Policy
from accel.recipe.reuse import Reuse
from accel.recipe.schedule import Schedule

SMALL_BLOCKS = st.sampled_from([(16, 16), (32, 16), (16, 32), (64, 32)])
NAMES = {"dense_backend": ["native"]}
SMALL_NUMBERS = {"sink": 40, "recent": 40, "window": 64, "min_tokens": 400, "segment": 128, "probes": 64}


def values_of(annotation: Any, name: str = "") -> st.SearchStrategy:
    """Values that a field of this type takes, most of them valid, as plain data."""
    bounds: list[Any] = []
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        for item in more:
            bounds += item.metadata if isinstance(item, FieldInfo) else [item]
    if name == "block_size":
        return SMALL_BLOCKS
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return st.one_of(*(values_of(member, name) for member in get_args(annotation)))
    if get_origin(annotation) is tuple:
        members = get_args(annotation)
        if members[-1] is Ellipsis:
            return st.lists(values_of(members[0], name), min_size=1, max_size=3).map(tuple)
        return st.tuples(*(values_of(member, name) for member in members))
    if annotation is type(None):
        return st.none()
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(_lowest(bounds, 0), _highest(bounds, SMALL_NUMBERS.get(name, 8)))
    if annotation is float:
        return st.sampled_from([0.05, 0.3, 0.5, 0.9, 1.0])
    if name in NAMES:
        return st.sampled_from(NAMES[name])
    if is_dataclass(annotation):
        return data_of(annotation)
    raise NotImplementedError(f"no strategy for {name}: {annotation}")


def data_of(cls: Any) -> st.SearchStrategy:
    """Plain data that a dataclass is made from: each field given or left at its default."""
    hints = get_type_hints(cls, include_extras=True)
    needed: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for field in fields(cls):
        always = field.name in ("method", "kind", "block_size") or not has_default(field)
        (needed if always else optional)[field.name] = values_of(hints[field.name], field.name)
    return st.fixed_dictionaries(needed, optional=optional)


def has_default(field: Field) -> bool:
    default = field.default
    if isinstance(default, FieldInfo):
        return not default.is_required()
    return default is not MISSING or field.default_factory is not MISSING


def _lowest(bounds: list[Any], otherwise: int) -> int:
    return next((int(b.ge) for b in bounds if isinstance(b, annotated_types.Ge)), otherwise)


def _highest(bounds: list[Any], otherwise: int) -> int:
    most = next((int(b.le) for b in bounds if isinstance(b, annotated_types.Le)), otherwise)
    return max(min(most, otherwise), _lowest(bounds, 0))


def made(cls: Any, data: Any) -> Any:
    """The object, or none where the parts contradict each other and are refused with a ValueError."""
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError:
        return None


def policies() -> st.SearchStrategy[Policy]:
    """Any method with any parameters, except what needs a file; half of them are composed."""
    drawn = (
        cls for cls in registered_policies().values() if all(field.name != "file" for field in fields(cls))
    )
    one = st.one_of(*(st.tuples(st.just(cls), data_of(cls)) for cls in drawn))
    composed = st.tuples(st.just(Composed), data_of(Composed))
    return st.one_of(one, composed).map(lambda pair: made(*pair)).filter(lambda policy: policy is not None)


def schedules() -> st.SearchStrategy[Schedule]:
    return data_of(Schedule).map(lambda data: made(Schedule, data)).filter(lambda found: found is not None)


def reuses() -> st.SearchStrategy[Reuse]:
    return data_of(Reuse).map(lambda data: made(Reuse, data)).filter(lambda found: found is not None)
