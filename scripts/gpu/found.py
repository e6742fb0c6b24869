"""What a file of the GPU check says, ready for tables: measured rows, and why others are missing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.page import markdown

NOT_MEASURED = "not measured"
Row = dict[str, Any]


class Found:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        data = json.loads(path.read_text())
        self.machine: Row = data["machine"]
        self.stages: dict[str, Row] = data["stages"]

    def rows(self, stage: str) -> list[Row]:
        """What a stage measured."""
        return [row for row in self._rows(stage) if not {"failed", "skipped"} & set(row)]

    @property
    def kernel_rows(self) -> list[Row]:
        """All times of kernels; where the main shape was measured twice, the later ones."""
        rows = {row["key"]: row for stage in ("main shape", "kernels") for row in self.rows(stage)}
        return list(rows.values())

    def failures(self, stage: str) -> dict[str, str]:
        """What a stage could not measure, and why."""
        return {row["key"]: row["failed"] for row in self._rows(stage) if "failed" in row}

    def skipped(self, stage: str) -> dict[str, str]:
        """The tiers that took no part in a stage, and why."""
        return {row["tier"]: row["skipped"] for row in self._rows(stage) if "skipped" in row}

    def why_not(self, stage: str) -> str:
        """`NOT_MEASURED`, followed by the reason in brackets if it is known."""
        entry = self.stages.get(stage, {})
        if entry.get("status") == "left out":
            return f"{NOT_MEASURED} ({entry['reason']})"
        failures = self.failures(stage)
        if failures:
            key, reason = next(iter(failures.items()))
            return f"{NOT_MEASURED} ({key}: {first_line(reason)})"
        if entry.get("status") == "failed":
            return f"{NOT_MEASURED} (it failed: {last_line(entry.get('output', ''))})"
        return NOT_MEASURED

    def _rows(self, stage: str) -> list[Row]:
        return self.stages.get(stage, {}).get("rows", [])


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """Lines of a table in Markdown; `NOT_MEASURED` if it has no rows."""
    lines = [[cell(value) for value in row] for row in rows]
    return [markdown(list(head), lines), ""] if lines else [NOT_MEASURED, ""]


def cell(value: Any) -> str:
    """A value as text: numbers with three digits, None as `NOT_MEASURED`."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/")


def met_or_missed(met: bool | None) -> str:
    """met, missed or not measured."""
    return NOT_MEASURED if met is None else "met" if met else "**missed**"


def first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "no reason given"


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1][:200] if text.strip() else "it printed nothing"
