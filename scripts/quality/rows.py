"""Rows of the policy benchmarks: chosen by their values, and summed up."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


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
