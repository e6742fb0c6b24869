"""The tables of paired settings: every prompt, means, and the t-statistic of the paired differences.

python -m scripts.quality.paired.tables docs/benchmarks/paired.json docs/benchmarks/paired-tables.md
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from scripts.page import markdown
from scripts.quality.paired.run import Row, read

BASELINE = "today"
Figure = Callable[[Row], float | None]
FIGURES: dict[str, Figure] = {
    "Latent error of whole generations": lambda row: row.latent_error,
    "SSIM of whole generations": lambda row: row.ssim,
    "Flicker added to the dense video's, as a share of it": lambda row: row.flicker,
    "Forced error of the guided velocity, root mean square over the sparse steps": lambda row: row.forced_rms,
}


def tables(rows: Iterable[Row]) -> str:
    """Every figure at every number of steps, as Markdown."""
    rows = list(rows)
    parts = []
    for title, figure in FIGURES.items():
        for steps in sorted({row.steps for row in rows}):
            known = [row for row in rows if row.steps == steps and figure(row) is not None]
            if known:
                parts.append(f"## {title}, {steps} steps\n\n{table(known, figure)}")
    return "\n\n".join(parts) + "\n"


def table(rows: list[Row], figure: Figure) -> str:
    """One row a setting, one column a prompt; work and figures are means over the prompts of the row."""
    names = list(dict.fromkeys(row.setting for row in rows))
    prompts = sorted({row.prompt for row in rows})
    found = {(row.setting, row.prompt): row for row in rows}
    header = ["setting", "work", *map(str, prompts), "mean", "against today", "t", "n"]
    lines = []
    for name in names:
        own = [found[name, prompt] for prompt in prompts if (name, prompt) in found]
        cells = [
            _number(figure(found[name, prompt])) if (name, prompt) in found else "-" for prompt in prompts
        ]
        pairs = [
            (float(figure(row) or 0), float(figure(found[BASELINE, row.prompt]) or 0))
            for row in own
            if (BASELINE, row.prompt) in found
        ]
        mean = statistics.fmean(float(figure(row) or 0) for row in own)
        work = statistics.fmean(row.work for row in own)
        lines.append([name, f"{work:.3f}", *cells, f"**{mean:.3f}**", *against(name, pairs), str(len(own))])
    return markdown(header, lines)


def against(name: str, pairs: list[tuple[float, float]]) -> list[str]:
    """The relative difference of the means of pairs (own, baseline), and t of the differences."""
    if name == BASELINE or len(pairs) < 2:
        return ["", ""]
    own, base = (statistics.fmean(values) for values in zip(*pairs, strict=True))
    return [f"{(own / base - 1) * 100:+.0f} %", f"{t_statistic([a - b for a, b in pairs]):+.1f}"]


def t_statistic(differences: list[float]) -> float:
    """Mean / standard error; infinite if all differences are equal, 0 if they are all 0."""
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if not spread:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / (spread / math.sqrt(len(differences)))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(
    source: Annotated[Path, typer.Argument(help="JSON file that `paired.run` wrote.")],
    page: Annotated[Path, typer.Argument(help="Markdown file to write.")],
) -> None:
    """Write the tables."""
    head = "# Paired settings: tables\n\n[paired.md](paired.md) says what was found. "
    head += f"Written by `scripts.quality.paired.tables` from {source.name}. Columns with a number are "
    head += "prompts; work and figures are means over the prompts that a setting was run on (n); t is the "
    head += "t-statistic of the paired differences from today.\n\n"
    page.write_text(head + tables(read(source)))


if __name__ == "__main__":
    typer.run(main)
