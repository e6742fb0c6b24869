"""Recipes of plans by layer and head that other projects publish as JSON: MInference's and MoA's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accel.files import text_of
from accel.recipe.errors import RecipeError
from accel.recipe.files import build_recipe
from accel.recipe.recipe import Recipe

BLOCK = [64, 64]
MINFERENCE_HEAD = 3  # a pattern's name and its two numbers; a score may follow


def published_recipe(path: str | Path) -> Recipe:
    """The recipe of a published plan, for the language model it was found for.

    Args:
        path: a JSON file: MInference's, one object a layer of `head: [pattern, number, number, score]`
            (arXiv 2407.02490), or MoA's, `alphas` and `betas` by layer and head (arXiv 2406.14909).

    Raises:
        RecipeError: if the file cannot be read or is neither.
    """
    source = str(path)
    try:
        plan = json.loads(text_of(Path(path), source, RecipeError))
    except json.JSONDecodeError as error:
        raise RecipeError(f"{source}: not JSON: {error}") from error
    if isinstance(plan, Mapping) and {"alphas", "betas"} <= plan.keys():
        heads, name = _spans(plan["alphas"], plan["betas"], source), "MoA"
    elif isinstance(plan, Sequence) and plan and all(isinstance(layer, Mapping) for layer in plan):
        heads, name = [_patterns(layer, f"{source}: [{i}]") for i, layer in enumerate(plan)], "MInference"
    else:
        raise RecipeError(f"{source}: expected MInference's list of layers, or MoA's alphas and betas")
    return build_recipe(_recipe(heads, f"a plan of {name}'s, from {Path(path).name}"), source)


def _recipe(heads: list[list[dict[str, Any]]], description: str) -> dict[str, Any]:
    candidates: list[dict[str, Any]] = []
    table = []
    for layer in heads:
        for one in layer:
            if one not in candidates:
                candidates.append(one)
        table.append([candidates.index(one) for one in layer])
    policy = {
        "method": "per_head",
        "choose": {"kind": "table", "parts": [{"heads": table}]},
        "candidates": [{"method": "compose", **one, "block_size": BLOCK} for one in candidates],
    }
    return {
        "description": description,
        "schedule": {"dense_queries": 64},
        "rules": [{"match": "*", "policy": policy}],
    }


def _patterns(layer: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    heads = []
    for number in range(len(layer)):
        pattern = layer.get(str(number))
        if not isinstance(pattern, list) or len(pattern) < MINFERENCE_HEAD:
            raise RecipeError(f"{where}: head {number} needs a pattern and two numbers, got {pattern!r}")
        kind, first, second = pattern[:MINFERENCE_HEAD]
        if kind == "vertical_and_slash":
            heads.append({"choose": {"kind": "vertical_slash", "verticals": first, "slashes": second}})
        elif kind == "stream_llm":
            heads.append({"always": {"sink": first, "recent": second}})
        else:
            raise RecipeError(
                f"{where}: head {number}: expected 'vertical_and_slash' or 'stream_llm', got {kind!r}"
            )
    return heads


def _spans(alphas: Any, betas: Any, source: str) -> list[list[dict[str, Any]]]:
    """Of each head the first 64 tokens and `alpha + beta · N` recent ones."""
    try:
        return [
            [
                {"always": {"sink": 64, "recent": int(alpha), "recent_share": float(beta)}}
                for alpha, beta in zip(*layer, strict=True)
            ]
            for layer in zip(alphas, betas, strict=True)
        ]
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{source}: alphas and betas must be numbers by layer and head: {error}") from error
