"""YAML from strangers as plain data: no tags, aliases, merges or repeated keys, and nothing deep or huge."""

from __future__ import annotations

import math
from typing import Any

import yaml

from accel.recipe.errors import RecipeError

MAX_DEPTH = 16
MAX_ITEMS = 1000
MAX_TEXT = 2000
MAX_DIGITS = 100
MAX_NUMBER = 2**31 - 1
NO_ALIASES = "anchors and aliases (&name, *name) are not allowed in a recipe"


def parse_yaml(text: str, source: str) -> Any:
    """The plain data that YAML text holds; `source` is what errors call it.

    Raises:
        RecipeError: if it is not YAML, or YAML that a recipe has no use for; says where.
    """
    try:
        data = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{source}: {_problem(error)}") from None
    require_small(data, source)
    return data


def require_small(data: Any, source: str, path: str = "", depth: int = 0) -> None:
    """Refuse data that no recipe can mean: deep, long, or with numbers that do not fit 32 bits.

    Raises:
        RecipeError: names the key path of the first offence.
    """
    where = f"{source}: {path}" if path else source
    if depth > MAX_DEPTH:
        raise RecipeError(f"{where}: nested more than {MAX_DEPTH} deep")
    if isinstance(data, dict | list | tuple) and len(data) > MAX_ITEMS:
        raise RecipeError(f"{where}: {len(data)} entries; a recipe has at most {MAX_ITEMS} in one place")
    if isinstance(data, str) and len(data) > MAX_TEXT:
        raise RecipeError(f"{where}: {len(data)} characters; a text has at most {MAX_TEXT}")
    if isinstance(data, str) and any("\ud800" <= character <= "\udfff" for character in data):
        raise RecipeError(f"{where}: holds half of a character (a lone surrogate), which cannot be written")
    if isinstance(data, int | float) and math.isfinite(data) and abs(data) > MAX_NUMBER:
        raise RecipeError(f"{where}: the number is larger than {MAX_NUMBER}")
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                raise RecipeError(f"{where}: a key is text, got {key!r}; put it in quotes")
            require_small(value, source, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(data, list | tuple):
        for number, value in enumerate(data):
            require_small(value, source, f"{path}[{number}]", depth + 1)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without what can hide, repeat or multiply data."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            # A few lines of these can expand to gigabytes.
            raise _at(event, NO_ALIASES)
        if event.anchor is not None:
            raise _at(event, NO_ALIASES)
        if event.tag is not None:
            raise _at(event, f"tags are not allowed in a recipe, got {event.tag}")
        if isinstance(event, yaml.ScalarEvent) and _is_huge_number(event.value):
            raise _at(event, f"a number of {len(event.value)} digits is too long")
        if isinstance(event, yaml.ScalarEvent) and self._is_base_60(event):
            raise _at(
                event, f"{event.value} is a number of base 60 in YAML; write a decimal, or text in quotes"
            )
        self.depth += 1
        if self.depth > MAX_DEPTH + 1:
            raise _at(event, f"nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _is_base_60(self, event: Any) -> bool:
        """Whether YAML 1.1 reads 90 where 1:30 is written."""
        tag = self.resolve(yaml.ScalarNode, event.value, event.implicit) if ":" in event.value else ""
        return tag.endswith((":int", ":float"))

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _at(key, "a key is text, not a list or a mapping")
            if key.tag == "tag:yaml.org,2002:merge":
                raise _at(key, "merging (<<) is not allowed in a recipe")
            if key.value in seen:
                raise _at(key, f"key {key.value!r} is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _is_huge_number(text: str) -> bool:
    """Whether PyYAML would make a number of a text in quadratic time, or Python refuse to."""
    return (
        len(text) > MAX_DIGITS and not text.strip("+-0123456789abcdefox_.:") and any(map(str.isdigit, text))
    )


def _at(place: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{getattr(error, 'problem', None) or error}".splitlines()[0]
