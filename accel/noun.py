"""Nouns: what recipes name and people build in Python, refused in the words that a file is refused in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field, fields
from functools import wraps
from typing import Any, TypeVar, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic._internal._model_construction import ModelMetaclass  # no public name
from pydantic.dataclasses import dataclass

from accel.recipe.errors import explain

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def noun(cls: type[Kind]) -> type[Kind]:
    """Make a class a frozen dataclass that checks its fields, and raises a RecipeError if one is wrong."""
    made: Any = dataclass(frozen=True, config=None if hasattr(cls, "__pydantic_config__") else STRICT)(cls)
    check = made.__init__

    @wraps(check)
    def init(self: Any, *args: Any, **values: Any) -> None:
        # Named: pydantic would say which argument is wrong by its number.
        names = [each.name for each in fields(made)]
        if len(args) > len(names):
            raise TypeError(f"{made.__name__} has the fields {', '.join(names)}; got {len(args)} values")
        with _explained(made.__name__, lambda: TypeAdapter(made).json_schema()):
            check(self, **dict(zip(names, args, strict=False)), **values)

    made.__init__ = init
    return made


class _Checked(ModelMetaclass):
    def __call__(cls, *args: Any, **values: Any) -> Any:
        with _explained(cls.__name__, cls.schema_of_mistakes):  # type: ignore[attr-defined]
            return super().__call__(*args, **values)


class Checked(BaseModel, metaclass=_Checked):
    """The same as a model of pydantic."""

    model_config = ConfigDict(frozen=True, **STRICT)

    @classmethod
    def schema_of_mistakes(cls) -> dict[str, Any]:
        """The JSON schema that says which keys there are where one is wrong."""
        return cls.model_json_schema()


@contextmanager
def _explained(name: str, schema: Callable[[], dict[str, Any]]) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise explain(error, name, schema()) from None
