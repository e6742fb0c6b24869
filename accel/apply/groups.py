"""Groups: the sites of a summary that behaved alike, one line each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from accel.apply.site_summary import SiteSummary

NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Group:
    """Sites of one method that ran dense for the same reasons, or their part in a prompt or in decoding.

    Args:
        name: of all of them: `blocks.1-29.attn1`.
        sites: how many.
        sparse_calls: None for a part.
        densities: lowest and highest of the sites; None without any. Of a part, dense calls count 1.
        dense_reasons: with their counts.
    """

    name: str
    method: str
    sites: int
    calls: int
    sparse_calls: int | None
    densities: tuple[float, float] | None
    dense_reasons: dict[str, int]

    @property
    def cells(self) -> tuple[str, ...]:
        """The group's row in a table with `COLUMNS`."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.dense_reasons.items())
        sparse = "" if self.sparse_calls is None else str(self.sparse_calls)
        return self.name, self.method, str(self.calls), sparse, self._density, reasons

    @property
    def _density(self) -> str:
        if self.densities is None:
            return "-"
        low, high = (f"{value:.3f}" for value in self.densities)
        return low if low == high else f"{low}-{high}"


COLUMNS = ("sites", "method", "calls", "sparse", "density", "dense reasons")


def groups(sites: Sequence[SiteSummary]) -> list[Group]:
    """Lines in the order of their first sites; the parts of a language model's sites follow their line."""
    alike: dict[object, list[SiteSummary]] = {}
    for site in sites:
        did = frozenset(site.dense_reasons), bool(site.sparse_calls), site.in_force
        alike.setdefault((NUMBER.sub("*", site.site), site.method, did), []).append(site)
    return [line for together in alike.values() for line in _lines(together)]


def _lines(sites: Sequence[SiteSummary]) -> list[Group]:
    first = sites[0]
    reasons = {reason: sum(site.dense_reasons[reason] for site in sites) for reason in first.dense_reasons}
    whole = Group(
        common_name([site.site for site in sites]),
        first.method,
        len(sites),
        sum(site.calls for site in sites),
        sum(site.sparse_calls for site in sites),
        _range([site.density for site in sites if site.density is not None]),
        reasons,
    )
    return [whole, *(_part(name, sites) for name in first.phases)]


def _part(name: str, sites: Sequence[SiteSummary]) -> Group:
    parts = [site.phases[name] for site in sites if name in site.phases]
    densities = _range([density for _, density in parts])
    return Group(f"  {name}", "", len(parts), sum(calls for calls, _ in parts), None, densities, {})


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if values else None


def common_name(names: Sequence[str]) -> str:
    """One name for names that differ only in their numbers: `blocks.0.attn1` and `blocks.2.attn1` are
    `blocks.0,2.attn1`."""
    columns = zip(*(map(int, NUMBER.findall(name)) for name in names), strict=True)
    numbers = iter([_runs(sorted(set(column))) for column in columns])
    return NUMBER.sub(lambda _: next(numbers), names[0])


def common_names(names: Sequence[str]) -> str:
    """The names, separated by commas, with those that differ only in their numbers as one."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(NUMBER.sub("*", name), []).append(name)
    return ", ".join(common_name(together) for together in alike.values())


def _runs(numbers: Sequence[int]) -> str:
    """`1-3,7` for 1, 2, 3 and 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
