"""The GPU check as a page: targets met and missed, what was measured, and what was not.

    python -m scripts.gpu.tables out.json docs/benchmarks/h200.md

A plot is written next to it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from scripts.gpu import kernel_tables as kernels
from scripts.gpu import model_tables as models
from scripts.gpu.found import Found, first_line, last_line, table
from scripts.gpu.stages import stages


def main(
    source: Annotated[Path, typer.Argument(help="JSON of scripts/gpu/check.py.")],
    out: Annotated[Path, typer.Argument(help="Markdown to write.")],
) -> None:
    """Write the page."""
    found = Found(source)
    drawn = kernels.plot(found)
    if drawn:
        out.with_suffix(".svg").write_text(drawn)
    out.write_text(page(found, out.with_suffix(".svg").name if drawn else None))


def page(found: Found, plot: str | None = None) -> str:
    """All sections."""
    sections = {
        "Kernels against their targets": kernels.targets(found),
        "Planning": kernels.planning(found),
        "What a tail and an order add": kernels.options(found),
        "Prompts": models.prefill(found),
        "Decoding": models.decode(found),
        "A video transformer": models.wan(found),
        "The embedded demos": models.demos(found),
        "Other people's kernels": kernels.peers(found),
        "Tests": tests(found),
        "Sanitizer": sanitizers(found),
        "All kernel rows": kernels.all_rows(found),
        "What was left out": left_out(found),
    }
    lines = head(found) + ([f"![Block rate by density]({plot})", ""] if plot else [])
    for title, content in sections.items():
        lines += [f"## {title}", *content]
    return "\n".join(lines).rstrip() + "\n"


def head(found: Found) -> list[str]:
    """The machine, and which code was measured when."""
    machine = found.machine
    about = ", ".join(
        f"{name} {value}" for name, value in machine.items() if name not in ("device", "sources", "commit")
    )
    ran = [entry for entry in found.stages.values() if entry["status"] != "left out"]
    dates = sorted(entry["date"][:10] for entry in ran)
    commits = Counter(f"{entry['commit'][:12]} (code {entry['sources'][:8]})" for entry in ran)
    when = f"{dates[0]} to {dates[-1]}" if dates else "never"
    return [
        f"# Measured on one {machine['device']}",
        "",
        "Written by `scripts/gpu/tables.py` from what `scripts/gpu/check.py` found: "
        "what is missing was not measured.",
        "",
        f"{about}. Measured {when}, at commit {', '.join(commits) or 'none'}.",
        "",
    ]


def tests(found: Found) -> list[str]:
    """How many tests of each part passed, and the names of those that did not."""
    cells, failed = [], []
    for name in sorted(name for name in found.stages if name.startswith("tests")):
        entry = found.stages[name]
        rows = entry.get("rows", [])
        outcomes = Counter(row.get("outcome", "hung or crashed") for row in rows)
        wrong = {row["key"]: row for row in rows if row.get("outcome") not in ("passed", "skipped")}
        failed += [f"- {key}: {_why(row)}" for key, row in wrong.items()]
        if entry["status"] == "failed" and not wrong:
            failed.append(f"- {name}: {last_line(entry.get('output', ''))}")
        cells.append([name, entry["status"], outcomes["passed"], len(wrong), outcomes["skipped"]])
    checks = [f"- {row['key']}: {row['result']}" for row in found.rows("check D128")]
    heading = ("part", "", "passed", "failed", "skipped")
    lines = table(heading, cells) + (["Failed:", "", *failed, ""] if failed else [])
    return [*lines, "What the check of a tier said, which decides what runs:", "", *_listed(found, checks)]


def _listed(found: Found, checks: list[str]) -> list[str]:
    return [*(checks or [found.why_not("check D128")]), ""]


def _why(row: dict) -> str:
    return row["failed"] if "failed" in row else last_line(row.get("reason", ""))


def sanitizers(found: Found) -> list[str]:
    """Clean or not, and the last line of output."""
    names = [stage.name for stage in stages() if stage.name.startswith("sanitizer")]
    cells = []
    for name in names:
        entry = found.stages.get(name, {"status": "not run"})
        words = entry.get("reason") or last_line(entry.get("output", "")) if "output" in entry else ""
        clean = {"passed": "clean", "failed": "**not clean**"}.get(entry["status"], "not run")
        cells.append([name.removeprefix("sanitizer "), clean, entry.get("reason", words)])
    return table(("small calls of", "", "last line"), cells)


def left_out(found: Found) -> list[str]:
    """Stages that did not run or did not finish, or that timed fewer tiers than there are."""
    lines = []
    for stage in stages():
        # Which tests exist depends on the GPU: those that never ran may not apply to it.
        if stage.name.startswith("tests") and stage.name not in found.stages:
            continue
        entry = found.stages.get(stage.name, {"status": "left out", "reason": "never run"})
        if entry["status"] == "left out":
            lines.append(f"- {stage.name}: {first_line(entry['reason'])}")
        elif entry["status"] in ("incomplete", "running"):
            lines.append(f"- {stage.name}: incomplete, {len(entry['rows'])} rows")
        if stage.times_tiers and entry.get("arguments"):
            lines += [f"- {stage.name}: {words}" for words in tiers_and_tests(found, entry["arguments"])]
    return [*(lines or ["Nothing."]), ""]


def tiers_and_tests(found: Found, timed: list[str]) -> list[str]:
    """The tiers that were not timed, and the head dims of those timed whose tests have not passed."""
    tried = [one for one in stages() if one.first_calls_of and one.name in found.stages]
    absent = [
        f"{one.first_calls_of} was not timed: its first calls were not right"
        for one in tried
        if one.first_calls_of not in timed
    ]
    failing = [
        f"{one.checks} was timed although its tests have not passed"
        for one in stages()
        if one.checks
        and one.name in found.stages
        and one.checks.partition(":")[0] in timed
        and found.stages[one.name]["status"] != "passed"
    ]
    return absent + failing


if __name__ == "__main__":
    typer.run(main)
