"""The page of real language models: rows by model, split and length as tables, with the spread."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from accel.policies.parts.scores import BlockScore, Pooled, Wanted
from accel.recipe.choose import LANGUAGE_MODELS
from scripts.page import markdown

if TYPE_CHECKING:
    from scripts.language.real import Row

PAGE = "language.real"  # the markers of its part of the page
HEAD = (
    "method", "density asked for", "executed", "scattered: tokens right", "exact", "end: tokens right",
    "exact", "text NLL over dense", "share of QKᵀ in the score",
)  # fmt: skip

OVERVIEW = (
    "model, tokens",
    "prompts",
    "blocks executed",
    "scattered (dense)",
    "end (dense)",
    "text NLL over dense",
    "oracle: scattered, end, text NLL",
)
SHIP = "@ship"  # after the name of a recipe that keeps its own budget


def price(score: BlockScore | None) -> float | None:
    """A score's multiplications as a share of those of QKᵀ; None if it is not made of products."""
    if score is None:
        return None
    if isinstance(score, Pooled):
        return None  # of means of whole blocks: next to nothing
    share = score.channels if isinstance(score, Wanted) else 1.0
    return share / (score.steps[0] * score.steps[1])


def page(rows: Iterable[Row], prices: dict[str, float | None]) -> str:
    """Markdown: the default in all cells, then two tables for each model, split and length.

    Args:
        prices: of each method, see `price`.
    """
    ordered = sorted(rows, key=lambda row: (row.split, row.model, row.length))
    cells = {
        cell: list(group)
        for cell, group in groupby(ordered, key=lambda row: (row.split, row.model, row.length))
    }
    tables = (table(cell, group, prices) for cell, group in cells.items())
    return "\n\n".join([overview(cells), *tables])


def overview(cells: dict[tuple[str, str, int], list[Row]]) -> str:
    """Markdown: a line for each cell of prompts to report on, and each density of the default. The oracle is
    beside the recipe's own density."""
    lines = []
    for (split, model, length), rows in cells.items():
        dense = {(row.text, row.number): row for row in rows if row.method == "dense"}
        for asked in (None, *sorted({row.asked for row in rows if row.asked is not None}, reverse=True)):
            name = LANGUAGE_MODELS + (SHIP if asked is None else "")
            of_default = [row for row in rows if (row.method, row.asked) == (name, asked)]
            if split == "reporting" and of_default:
                oracle = [row for row in rows if (row.method, row.asked) == (f"oracle{SHIP}", asked)]
                cells_of_line = [*beside_dense(of_default, dense), oracle_of(oracle, dense)]
                lines.append([f"{model}, {length:,}", len(of_default), *cells_of_line])
    return markdown(OVERVIEW, lines)


def beside_dense(rows: list[Row], dense: dict[tuple[str, int], Row]) -> list[str]:
    """Density, the share found in each place beside dense's on the same prompts, and text NLL over dense."""
    of_dense = [dense[row.text, row.number] for row in rows]
    both = (f"{share(rows, place):.2f} ({share(of_dense, place):.2f})" for place in ("scattered", "end"))
    over = mean(over_dense(rows, dense))
    return [f"{mean(row.density for row in rows):.3f}", *both, f"{over:+.3f}"]


def oracle_of(rows: list[Row], dense: dict[tuple[str, int], Row]) -> str:
    """The shares found in both places and text NLL over dense; with dense's shares if these are not all of
    dense's prompts."""
    if not rows:
        return "-"
    of_dense = [dense[row.text, row.number] for row in rows]
    some = f" ({counted(rows)}; dense {shares(of_dense)})" if len(rows) < len(dense) else ""
    return f"{shares(rows)}, {mean(over_dense(rows, dense)):+.3f}{some}"


def shares(rows: list[Row]) -> str:
    return ", ".join(f"{share(rows, place):.2f}" for place in ("scattered", "end"))


def counted(rows: Sized) -> str:
    return f"{len(rows)} prompt{'s' * (len(rows) != 1)}"


def over_dense(rows: list[Row], dense: dict[tuple[str, int], Row]) -> list[float]:
    """Each row's text NLL over dense's of the same prompt, in nats."""
    return [row.text_nll - dense[row.text, row.number].text_nll for row in rows]


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
    title = f"### {model}, {length:,} tokens, {split}: {counted(dense)}"
    prompts = by_prompt([of_method for _, of_method in ranked], dense)
    return "\n\n".join([title, markdown(HEAD, lines), prompts])


def by_prompt(methods: list[list[Row]], dense: dict[tuple[str, int], Row]) -> str:
    """Markdown: answer tokens right in both places, and text NLL over dense, for each method and prompt."""
    head = [
        f"{text} {number} ({row.asked_for['scattered']} + {row.asked_for['end']})"
        for (text, number), row in dense.items()
    ]
    lines = []
    for rows in methods:
        of = {(row.text, row.number): row for row in rows}
        lines.append([label(rows), *(one(of[key], dense[key]) if key in of else "" for key in dense)])
    return markdown(["answer tokens right, scattered + at the end, and text NLL", *head], lines)


def one(row: Row, dense: Row) -> str:
    nll = f"{row.text_nll:.3f}" if row is dense else f"{row.text_nll - dense.text_nll:+.3f}"
    return f"{row.found['scattered']} + {row.found['end']}, {nll}"


def label(rows: list[Row]) -> str:
    """A method and the density it was asked for."""
    asked = rows[0].asked
    return named(rows[0].method) + ("" if asked is None else f" at {asked}")


def named(method: str) -> str:
    return Path(method).stem if method.endswith(".yaml") else method


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
    cells: list[Any] = [named(name), "-" if asked is None else asked]
    cells.append(f"{mean(row.density for row in rows):.3f}")
    for place in ("scattered", "end"):
        each = [row.found[place] / row.asked_for[place] for row in rows]
        beside = f"; dense {share(of_dense, place):.2f}" if len(rows) < len(dense) else ""
        cells.append(f"{share(rows, place):.2f} ({min(each):.2f} to {max(each):.2f}){beside}")
        cells.append(f"{sum(row.exact[place] for row in rows)} of {sum(row.facts[place] for row in rows)}")
    over = over_dense(rows, dense)
    if name == "dense":
        cells += [f"({mean(row.text_nll for row in rows):.3f})", "-"]
    else:
        cells.append(f"{mean(over):+.3f} ({min(over):+.3f} to {max(over):+.3f})")
        paid = prices.get(name)
        cells.append("-" if paid is None else f"{paid:.3g}")
    if len(rows) < len(dense):
        cells[0] = f"{cells[0]} ({counted(rows)})"
    return cells
