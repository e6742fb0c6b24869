"""Recipe errors: what is wrong, where, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from accel.mistake import Mistake

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
MAPPING_EXPECTED = ("dataclass_type", "model_type", "model_attributes_type")


class RecipeError(Mistake):
    """A mistake in a recipe; the text names its file and key path."""


def nearest(name: object, names: Iterable[str]) -> str:
    """A hint: the closest of `names`, or all of them."""
    choices = sorted(names)
    close = difflib.get_close_matches(str(name), choices, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"expected one of: {', '.join(choices)}" if choices else ""


def explain(error: ValidationError, source: str, schema: dict[str, Any]) -> RecipeError:
    """Pydantic's findings as one RecipeError, a line each.

    Args:
        error: what pydantic raised.
        source: the file's name, or a name for data that is not from a file.
        schema: JSON schema of the whole, to name the valid keys of a place.
    """
    findings = error.errors()
    places = [_path(_walk(found, schema)[0]) for found in findings]
    kept = [
        found
        for found, place in zip(findings, places, strict=True)
        if not _follows(found, findings) and not _was_not_meant(found, place, findings, places)
    ]
    return RecipeError("\n".join(dict.fromkeys(f"{source}: {_line(found, schema)}" for found in kept)))


def _was_not_meant(finding: Any, place: str, findings: Sequence[Any], places: Sequence[str]) -> bool:
    """Whether a place may be a mapping or something else, and this is about the one that it is not."""
    if finding["type"] in MAPPING_EXPECTED:
        both = zip(findings, places, strict=True)
        return any(where == place and other["type"] not in MAPPING_EXPECTED for other, where in both)
    return isinstance(finding["input"], Mapping) and any(where.startswith(f"{place}.") for where in places)


def _follows(finding: Any, findings: Iterable[Any]) -> bool:
    """Whether a list is called too short only because something in it is wrong."""
    place = finding["loc"]
    return finding["type"] == "too_short" and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in findings
    )


def _line(finding: Any, schema: dict[str, Any]) -> str:
    kind = finding["type"]
    steps, properties = _walk(finding, schema)
    path = _path(steps)
    if kind in UNKNOWN:
        parent = _path(steps[:-1])
        where = f"{parent}: " if parent else ""
        return f"{where}unknown key {steps[-1]!r}; {nearest(steps[-1], properties)}"
    if kind == "union_tag_invalid":
        tag = finding["ctx"]["tag"]
        choices = [choice.strip(" '") for choice in finding["ctx"]["expected_tags"].split(",")]
        return f"{path}.{_tag(finding)}: unknown {_tag(finding)} {tag!r}; {nearest(tag, choices)}"
    if kind == "union_tag_not_found":
        return f"{path}.{_tag(finding)}: this key is required"
    if kind in ("missing", "missing_argument"):
        return f"{path}: this key is required"
    if kind == "model_attributes_type" and isinstance(finding["input"], str):
        return f"{path}: a mapping is expected: write {{kind: {finding['input']}}}"
    if not path:
        return _lower(finding["msg"])
    return f"{path}: {_lower(finding['msg'])}, got {_short(finding['input'])}"


def _tag(finding: Any) -> str:
    """The key that says which of several kinds of mapping one is."""
    name = finding["ctx"]["discriminator"].strip("'")
    return name if name.isidentifier() else "method"


def _walk(finding: Any, schema: dict[str, Any]) -> tuple[list[str | int], list[str]]:
    """A finding's place without pydantic's labels of union members, and the valid keys at its last step."""
    node, keys = _object(schema, schema), list[str]()
    steps: list[str | int] = []
    location = finding["loc"]
    for number, part in enumerate(location, 1):
        unknown = finding["type"] in UNKNOWN and number == len(location)
        if isinstance(part, int):
            steps.append(part)
            node = _object(node.get("items", {}), schema)
        elif part in node.get("discriminator", {}).get("mapping", {}):
            node = _object({"$ref": node["discriminator"]["mapping"][part]}, schema)
        elif part in node.get("properties", {}) or (unknown and "properties" in node):
            steps.append(part)
            keys = list(node["properties"])
            node = _object(node["properties"].get(part, {}), schema)
    return steps, keys


def _object(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema a node refers to; of an optional mapping, the mapping."""
    node = _deref(node, schema)
    members = [_deref(member, schema) for member in node.get("anyOf", [])]
    return next((member for member in members if "properties" in member or "discriminator" in member), node)


def _deref(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _path(steps: list[str | int]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.lstrip(".")


def _lower(message: str) -> str:
    """What pydantic says, in the words of YAML."""
    message = message.removeprefix("Value error, ")
    message = re.sub(
        r" or (an )?(instance of \w+|object to extract fields from)| after validation",
        "",
        message[:1].lower() + message[1:],
    )
    return message.replace("tuple", "list").replace("dictionary", "mapping")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
