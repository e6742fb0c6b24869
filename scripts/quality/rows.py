"""Rows of the policy benchmarks, as they lie in the JSON files, and what tables are made with."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read(file: Path) -> list[Record]:
    """Rows by column; they lie in the file as lists, or as they are."""
    found = json.loads(file.read_text())
    if "columns" not in found:
        return found["rows"]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def of(rows: list[Record], **wanted: Any) -> list[Record]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def place(row: Record) -> tuple[str, int, int, int]:
    return row["kind"], row["prompt"], row["layer"], row["step"]


def median(rows: list[Record], field: str) -> float:
    return statistics.median(row[field] for row in rows)


def densities(rows: Iterable[Record]) -> list[float]:
    return sorted({row["wanted"] for row in rows})


def mean(rows: list[Record], field: str) -> float:
    return statistics.fmean(row[field] for row in rows)


def markdown(header: list[str], lines: list[list[str]]) -> str:
    table = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)
