"""The page of real language models: rows by model, split and length as tables, with the spread."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from accel.policies.parts.scores import BlockScore, Pooled, Wanted
from scripts.page import markdown

if TYPE_CHECKING:
    from scripts.language.real import Row

PAGE = "language.real"  # the markers of its part of the page
HEAD = (
    "method", "density asked for", "executed", "scattered: tokens right", "exact", "end: tokens right",
    "exact", "text NLL over dense", "share of QKᵀ in the score",
)  # fmt: skip


def price(score: BlockScore | None) -> float | None:
    """A score's multiplications as a share of those of QKᵀ; None if it is not made of products."""
    if score is None:
        return None
    if isinstance(score, Pooled):
        return None  # of means of whole blocks: next to nothing
    share = score.channels if isinstance(score, Wanted) else 1.0
    return share / (score.steps[0] * score.steps[1])


def page(rows: Iterable[Row], prices: dict[str, float | None]) -> str:
    """Markdown: a table for each model, split and length.

    Args:
        prices: of each method, see `price`.
    """
    ordered = sorted(rows, key=lambda row: (row.split, row.model, row.length))
    tables = (
        table(cell, list(group), prices)
        for cell, group in groupby(ordered, key=lambda row: (row.split, row.model, row.length))
    )
    return "\n\n".join(tables)


def table(cell: tuple[str, str, int], rows: list[Row], prices: dict[str, float | None]) -> str:
    split, model, length = cell
    dense = {(row.text, row.number): row for row in rows if row.method == "dense"}
    methods = {(row.method, row.asked): None for row in rows if (row.text, row.number) in dense}
    by_method = {
        method: [row for row in rows if (row.method, row.asked) == method and (row.text, row.number) in dense]
        for method in methods
    }
    ranked = sorted(by_method.items(), key=lambda item: (item[0][0] != "dense", -share(item[1], "scattered")))
    lines = [line(method, of_method, dense, prices) for method, of_method in ranked]
    return f"### {model}, {length:,} tokens, {split}: {len(dense)} prompts\n\n{markdown(HEAD, lines)}"


def share(rows: list[Row], place: str) -> float:
    """The share of a place's answer tokens that are right."""
    return sum(row.found[place] for row in rows) / max(sum(row.asked_for[place] for row in rows), 1)


def line(
    method: tuple[str, float | None],
    rows: list[Row],
    dense: dict[tuple[str, int], Row],
    prices: dict[str, float | None],
) -> list[Any]:
    name, asked = method
    of_dense = [dense[row.text, row.number] for row in rows]
    cells: list[Any] = [Path(name).stem if name.endswith(".yaml") else name, "-" if asked is None else asked]
    cells.append(f"{mean(row.density for row in rows):.3f}")
    for place in ("scattered", "end"):
        each = [row.found[place] / row.asked_for[place] for row in rows]
        cells.append(f"{share(rows, place):.2f} ({min(each):.2f} to {max(each):.2f})")
        cells.append(f"{sum(row.exact[place] for row in rows)} of {sum(row.facts[place] for row in rows)}")
    over = [row.text_nll - other.text_nll for row, other in zip(rows, of_dense, strict=True)]
    if name == "dense":
        cells += [f"({mean(row.text_nll for row in rows):.3f})", "-"]
    else:
        cells.append(f"{mean(over):+.3f} ({min(over):+.3f} to {max(over):+.3f})")
        paid = prices.get(name)
        cells.append("-" if paid is None else f"{paid:.3g}")
    if len(rows) < len(dense):
        cells[0] = f"{cells[0]} ({len(rows)} prompts)"
    return cells
