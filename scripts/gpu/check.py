"""Everything that needs a GPU: tests, the sanitizer and all benchmarks, in one JSON file.

    python -m scripts.gpu.check out.json --budget 480 --plan     # what fits in eight minutes
    python -m scripts.gpu.check out.json --budget 480
    python -m scripts.gpu.check out.json --budget 200 --resume   # the rest
    python -m scripts.gpu.tables out.json docs/benchmarks/h200.md

The file is complete after every row: whatever ends this program, what was measured is in it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from shutil import which
from typing import Annotated, Any

import torch
import typer

from scripts.gpu.process import run_stage
from scripts.gpu.record import Record, machine
from scripts.gpu.stages import PREFLIGHT, Stage, gpu_tiers, stages

SHORTEST = 30  # seconds; with less left nothing is started
MEMORY = 4 << 30  # bytes of the host for each process of tests


@dataclass(frozen=True)
class Options:
    """How stages are run.

    Args:
        deadline: when everything ends, in seconds of `time.monotonic`.
        small: every benchmark on a single small shape.
        even_failing: time tiers too whose first calls fail.
    """

    deadline: float
    small: bool = False
    even_failing: bool = False

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()


def main(
    out: Annotated[Path, typer.Argument(help="JSON file to write.")],
    stage: Annotated[
        list[str] | None, typer.Option(help="Only stages whose names begin so; repeat. --plan lists them.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Continue the file: skip what it has for this code and kind of machine.")
    ] = False,
    budget: Annotated[float, typer.Option(help="Seconds after which everything ends.", min=1)] = 1e9,
    plan: Annotated[bool, typer.Option("--plan", help="List the stages without running them.")] = False,
    small: Annotated[bool, typer.Option(help="Benchmarks on a small shape, to try the machinery.")] = False,
    even_failing: Annotated[bool, typer.Option(help="Time tiers too whose first calls are wrong.")] = False,
    commit: Annotated[
        str | None, typer.Option(help="Commit of the code, if there is no git checkout.")
    ] = None,
) -> None:
    """Run the stages, the most valuable first. Exits with 1 without a GPU, or if one that ran failed."""
    chosen = [one for one in stages() if not stage or one.name.startswith(tuple(stage))]
    if not chosen:
        raise typer.BadParameter(f"no stage begins with any of {stage}; --plan lists them")
    if plan:
        print(listing(chosen, budget))
        return
    if not torch.cuda.is_available():
        print("no GPU: PyTorch sees no CUDA device here, so there is nothing to check", file=sys.stderr)
        raise typer.Exit(1)
    options = Options(time.monotonic() + budget, small, even_failing)
    record = Record(out, machine(commit), resume)
    ran = run_all(chosen, record, options)
    print(f"wrote {out}, {len(ran)} stages ran, {budget - options.left:.0f} s")
    raise typer.Exit(int(any(record.stages[name]["status"] == "failed" for name in ran)))


def run_all(chosen: list[Stage], record: Record, options: Options) -> list[str]:
    """Run untimed neighbours in parallel and the others one by one; returns the names of those that ran."""
    todo = [one for one in chosen if one.each_machine or not record.finished(one.name)]
    ran: list[str] = []
    for alone, group in groupby(todo, key=lambda one: one.alone):
        with ThreadPoolExecutor(1 if alone else processes()) as pool:
            done = pool.map(lambda one: attempt(one, record, options), list(group))
            ran += [name for name in done if name]
        if PREFLIGHT in ran and record.stages[PREFLIGHT]["status"] == "failed":
            print("the preflight failed: install what it names before running anything else")
            break
    return ran


def attempt(stage: Stage, record: Record, options: Options) -> str | None:
    """Run a stage if possible; returns its name, or None with the reason in the record."""
    reason = cannot_begin(stage, options) or timed_tiers(stage, record, options)[1]
    if reason:
        print(f"{stage.name}: left out: {reason}", flush=True)
        if not record.rows_so_far(stage.name):
            record.put(stage.name, {"status": "left out", "reason": reason})
        return None
    tiers, _ = timed_tiers(stage, record, options)
    arguments = [word for tier in tiers for word in ("--tier", tier)]
    arguments += stage.small if options.small else ()
    print(f"{stage.name}: begins, {options.left:.0f} s left", flush=True)
    entry = run_stage(stage, arguments, record, min(stage.limit, options.left - 5))
    print(f"{stage.name}: {entry['status']}, {len(entry['rows'])} rows, {entry['seconds']} s", flush=True)
    return stage.name


def cannot_begin(stage: Stage, options: Options) -> str | None:
    """What is missing, or how much time; None if nothing is."""
    for name in stage.needs:
        if which(name) is None and find_spec(name.replace("-", "_")) is None:
            return f"{name} is not installed"
    # Rows are kept one by one: part of a long stage is worth having.
    least = min(stage.seconds, 2 * SHORTEST) if stage.alone else SHORTEST
    least = stage.limit if stage.each_machine else least
    if options.left < least:
        return f"it should take {stage.seconds} s, and {max(options.left, 0):.0f} s are left"
    return None


def timed_tiers(stage: Stage, record: Record, options: Options) -> tuple[list[str], str | None]:
    """The tiers to time, or why there are none to time; both empty for a stage without tiers."""
    if not stage.times_tiers:
        return [], None
    passed = [
        one.first_calls_of
        for one in stages()
        if one.first_calls_of
        and (options.even_failing or (record.finished(one.name) and _passed(record.stages[one.name])))
    ]
    return passed, None if passed else f"the first calls of none of {', '.join(gpu_tiers())} were right"


def _passed(entry: dict[str, Any]) -> bool:
    return entry["status"] == "passed" and any(row.get("outcome") == "passed" for row in entry["rows"])


def processes() -> int:
    """How many processes may run at once: each compiles on one core and needs memory. A virtual machine may
    report less memory than it has."""
    cores, memory = os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(cores // 2, min(cores - 1, memory // MEMORY), 1)


def listing(chosen: list[Stage], budget: float = math.inf) -> str:
    """One line per stage: when it should end, its estimate and limit in seconds, whether it has the GPU to
    itself, and its name; and where a budget ends."""
    lines = [f"{'ends at':>8} {'about s':>8} {'limit s':>8}  {'GPU':<7} stage"]
    over = False
    for one, end in zip(chosen, ends(chosen), strict=True):
        if end > budget and not over:
            over = True
            lines.append(f"-- {budget:.0f} s: what follows is for --resume --")
        lines.append(
            f"{end:>8.0f} {one.seconds:>8} {one.limit:>8}  {'alone' if one.alone else 'shared':<7} {one.name}"
            + (f"  (needs {', '.join(one.needs)})" if one.needs else "")
        )
    lines.append(f"{processes()} processes of tests run at once on this machine")
    return "\n".join(lines)


def ends(chosen: list[Stage]) -> list[float]:
    """When each stage should have ended, in seconds from the first; neighbours that share the GPU end
    together."""
    now, found = 0.0, []
    for alone, group in groupby(chosen, key=lambda one: one.alone):
        for part in batched_by(list(group), 1 if alone else processes()):
            now += max(one.seconds for one in part)
            found += [now] * len(part)
    return found


def batched_by(group: list[Stage], size: int) -> list[list[Stage]]:
    return [group[first : first + size] for first in range(0, len(group), size)]


if __name__ == "__main__":
    typer.run(main)
