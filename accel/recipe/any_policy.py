"""AnyPolicy: the field of a rule that holds a method: an object of any `Policy`, or what makes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, PlainSerializer, PlainValidator, Tag, TypeAdapter
from pydantic_core import PydanticCustomError, PydanticKnownError

from accel.noun import refuse_yes
from accel.policies.policy import Policy
from accel.policies.registry import find_policy, policy_names, registered_policies


def read_policy(value: Any) -> Policy:
    """The method that a recipe's data describe; a policy object is returned unchanged.

    Raises:
        ValidationError, PydanticKnownError, PydanticCustomError: what pydantic makes part of its findings.
    """
    if isinstance(value, Policy):
        if not isinstance(_method(value), str):
            raise PydanticCustomError(
                "policy", "a method needs a name for reports: write `method = 'mine'` in its class"
            )
        return value
    if isinstance(value, type) and issubclass(value, Policy):
        raise PydanticCustomError("policy", f"an object is expected, not a class: write {value.__name__}()")
    if isinstance(value, str):
        example = {"example": f"{{method: {value}}}"}
        raise PydanticCustomError("policy", "a mapping is expected: write {example}", example)
    name = _method(value)
    if name is None:
        raise PydanticKnownError("union_tag_not_found", {"discriminator": "method"})
    try:
        known = find_policy(name) if isinstance(name, str) else None
    except ValueError as error:
        raise PydanticCustomError("policy", "{problem}", {"problem": str(error)}) from error
    if known is None:
        tags = ", ".join(map(repr, policy_names()))
        context: dict[str, Any] = {"discriminator": "method", "tag": str(name), "expected_tags": tags}
        raise PydanticKnownError("union_tag_invalid", context)
    made = _adapter(name, known).validate_python(value)
    refuse_yes(value, made)
    return made


def dump_policy(policy: Policy) -> dict[str, Any]:
    """A method as plain data; if it is not a dataclass, its name alone."""
    if not is_dataclass(policy):
        return {"method": policy.method}
    return {"method": policy.method, **TypeAdapter(type(policy)).dump_python(policy, mode="json")}


def policies_schema(template: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schema of a rule's method, and the definitions it refers to by `template`."""
    adapters = [(name, "validation", TypeAdapter(policy)) for name, policy in registered_policies().items()]
    schemas, rest = TypeAdapter.json_schemas(adapters, ref_template=template)  # type: ignore[arg-type]
    definitions = dict(rest.get("$defs", {}))
    mapping = {}
    for (name, _), schema in schemas.items():
        if "$ref" not in schema:
            definitions[name] = schema
            schema = {"$ref": template.format(model=name)}
        mapping[name] = schema["$ref"]
    choices = [{"$ref": ref} for ref in mapping.values()]
    return {"oneOf": choices, "discriminator": {"propertyName": "method", "mapping": mapping}}, definitions


def _method(value: Any) -> Any:
    return value.get("method") if isinstance(value, Mapping) else getattr(value, "method", None)


@lru_cache(maxsize=64)
def _adapter(name: str, policy: type[Policy]) -> TypeAdapter[Policy]:
    """Of one method, in a union: so its name is part of where a mistake is."""
    union: Any = Annotated[policy, Tag(name)] | Annotated[None, Tag("")]
    return TypeAdapter(Annotated[union, Discriminator(_method)])


if TYPE_CHECKING:
    AnyPolicy = Policy
else:
    AnyPolicy = Annotated[Any, PlainValidator(read_policy), PlainSerializer(dump_policy)]
