"""Nouns: what recipes name and people build in Python, refused in the words that a file is refused in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs, PydanticCustomError

from accel.recipe.errors import explain

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    # It has no public name.
    ModelMetaclass = type(BaseModel)

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Kind = TypeVar("Kind")


def refuse_yes(given: Any, taken: Any) -> None:
    """Refuse true and false where pydantic took them for 1 and 0.

    Args:
        given: a mapping, or the named arguments of a noun.
        taken: the object made of it.
    """
    values = given.kwargs if isinstance(given, ArgsKwargs) else given
    if isinstance(values, Mapping):
        wrong = [
            {"type": PydanticCustomError("number", "a number is expected"), "loc": place, "input": value}
            for name, of_field in values.items()
            for place, value in _yes_for_numbers(of_field, getattr(taken, str(name), None), (name,))
        ]
        if wrong:
            raise ValidationError.from_exception_data(type(taken).__name__, wrong)  # type: ignore[arg-type]


def _yes_for_numbers(
    given: Any, taken: Any, place: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], bool]]:
    if isinstance(given, bool) and isinstance(taken, int | float) and not isinstance(taken, bool):
        yield place, given
    if isinstance(given, list | tuple) and isinstance(taken, tuple):
        for number, pair in enumerate(zip(given, taken, strict=False)):
            yield from _yes_for_numbers(*pair, (*place, number))


def _without_yes(cls: Any, given: Any, make: Callable[[Any], Any]) -> Any:
    taken = make(given)
    refuse_yes(given, taken)
    return taken


_around: Any = model_validator(mode="wrap")


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def noun(cls: type[Kind]) -> type[Kind]:
    """Make a class a frozen dataclass that checks its fields, and raises a RecipeError if one is wrong."""
    cls._without_yes = _around(classmethod(_without_yes))  # type: ignore[attr-defined]
    made: Any = dataclass(frozen=True, config=None if hasattr(cls, "__pydantic_config__") else STRICT)(cls)
    check, names = made.__init__, [each.name for each in fields(made)]

    @wraps(check)
    def init(self: Any, *args: Any, **values: Any) -> None:
        if len(args) > len(names):
            raise TypeError(f"{made.__name__} has the fields {', '.join(names)}; got {len(args)} values")
        # Named: pydantic would say which argument is wrong by its number.
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
    _without_yes = _around(classmethod(_without_yes))

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
