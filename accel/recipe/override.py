"""Overrides: change single values of a recipe from keyword arguments or `--set key.path=value`."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any

from accel.policies.policy import Policy
from accel.policies.registry import find_policy
from accel.recipe.any_policy import dump_policy
from accel.recipe.errors import RecipeError, nearest
from accel.recipe.files import build_recipe, recipe_data
from accel.recipe.recipe import Recipe
from accel.recipe.schedule import Schedule

SCHEDULE_KEYS = tuple(field.name for field in fields(Schedule))
WHOLE = ("compensate", "few_steps")  # None turns them off
OF_A_KIND = ("method", "compensate.kind")


def override(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with some values replaced.

    Args:
        recipe: not modified.
        changes: by full path ("schedule.dense_steps", "rules.0.policy.decay") or by bare name: a key of the
            schedule, `method`, `compensate`, `few_steps`, or the only key of the name in a policy, however
            deep (set in every rule whose policy has it).

    Raises:
        RecipeError: if a path does not exist, a bare name is that of several keys of a policy, or a value is
            out of range; names the nearest valid key.
    """
    if not changes:
        return recipe
    data = recipe_data(recipe)
    before = [dict(rule["policy"]) for rule in data["rules"]]
    # A method or kind has its own keys, which the other changes may be meant for.
    for key, value in sorted(changes.items(), key=lambda change: change[0] not in OF_A_KIND):
        if key == "compensate.kind" and value != (data["compensate"] or {}).get("kind"):
            data["compensate"] = {"kind": value}
        elif "." in key:
            _set_path(data, key, value)
        else:
            _set_name(data, key, value)
    for rule, old, mapping in zip(recipe.rules, before, data["rules"], strict=False):
        if find_policy(rule.policy.method) is not type(rule.policy) and isinstance(mapping, dict):
            mapping["policy"] = _changed_object(rule.policy, old, mapping.get("policy"))
    return build_recipe(data, "override")


def _changed_object(policy: Policy, before: dict[str, Any], after: Any) -> Any:
    """A method that no recipe can name, with the changed fields replaced."""
    if after == before:
        return policy
    if not is_dataclass(policy) or not isinstance(after, dict) or after.get("method") != policy.method:
        return after
    try:
        return replace(policy, **{key: value for key, value in after.items() if value != before.get(key)})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"override: {type(policy).__name__}: {error}") from error


def _set_name(data: dict[str, Any], name: str, value: Any) -> None:
    rules = data["rules"]
    if name in SCHEDULE_KEYS:
        for part in (data, *(rule for rule in rules if "schedule" in rule)):
            part.setdefault("schedule", {})[name] = value
        return
    if name in WHOLE:
        data[name] = value
        return
    if name == "method":
        for rule in rules:
            rule["policy"] = _defaults_of(value)
        return
    places = [_mappings(rule["policy"], f"rules.{number}.policy") for number, rule in enumerate(rules)]
    holders = [{path: mapping for path, mapping in found.items() if name in mapping} for found in places]
    if not any(holders):
        known = {key for found in places for mapping in found.values() for key in mapping}
        known |= {*SCHEDULE_KEYS, *WHOLE, "method"}
        raise RecipeError(f"override: unknown key {name!r}; {nearest(name, known)}")
    for paths in holders:
        if len(paths) > 1:
            full = " or ".join(f"{path}.{name}" for path in paths)
            raise RecipeError(f"override: {name!r} is the name of several keys; say which: {full}")
        for mapping in paths.values():
            mapping[name] = value


def _defaults_of(method: Any) -> dict[str, Any]:
    """The method's fields with all defaults; of an unknown method its name, for `build_recipe` to refuse.

    A method that cannot be without some of its fields has None for these, to be set, or refused, later.
    """
    policy = find_policy(method) if isinstance(method, str) else None
    if policy is None:
        return {"method": method}
    known: tuple[Field[Any], ...] = fields(policy) if is_dataclass(policy) else ()
    needed = [field.name for field in known if field.default is field.default_factory is MISSING]
    return {"method": method, **dict.fromkeys(needed)} if needed else dump_policy(policy())


def _mappings(node: Any, path: str) -> dict[str, dict[str, Any]]:
    """A mapping and every mapping in it by their paths: `density` is found inside `select`."""
    if not isinstance(node, dict):
        return {}
    found = {path: node}
    for key, value in node.items():
        found |= _mappings(value, f"{path}.{key}")
    return found


def _part(node: dict[str, Any], name: str) -> Any:
    """A part of a recipe or a rule, made where it may be missing."""
    if name == "schedule":
        return node.setdefault("schedule", {})
    if name == "compensate" and node[name] is None:
        node[name] = {"kind": "residual"}
    return node[name]


def _set_path(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = data
    for depth, part in enumerate(parents):
        try:
            node = node[int(part)] if isinstance(node, list) else _part(node, part)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            valid = (
                node
                if isinstance(node, dict)
                else map(str, range(len(node)))
                if isinstance(node, list)
                else []
            )
            raise RecipeError(
                f"override: no {'.'.join(parents[: depth + 1])!r}; {nearest(part, valid)}"
            ) from error
    if not isinstance(node, dict):
        raise RecipeError(f"override: {path!r} is not a key of a mapping")
    node[last] = value
