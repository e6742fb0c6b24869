"""What the needle bench says: tables, the density at which each method breaks, and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from scripts.line_plot import Panel, line_plot
from scripts.page import markdown

BAR = 0.99
GOAL = 0.3
LONG = 4096  # tokens; of shorter prompts what is kept anyway is more than the densities asked for
PAGE = "language.needle"  # the markers of its part of the page


@dataclass(frozen=True)
class Row:
    """One method at one length and density. `dense` is a method too, of density 1.

    Args:
        mode: where the questions are and whether the last queries are dense.
        asked: the density asked for; None is the recipe's own.
        density: what was executed, in (0, 1], dense layers and dense queries included.
        samples: sequences measured, with one question for each depth.
        right_by_depth: how many of these found the needle, the shallowest first.
        answer_nll, text_nll: mean negative log-likelihood of the answers and of all tokens, in nats.
        error: norm(h - dense h) / norm(dense h) of the last layer's output, mean over the sequences.
    """

    method: str
    mode: str
    length: int
    asked: float | None
    density: float
    samples: int
    right_by_depth: tuple[int, ...]
    answer_nll: float
    text_nll: float
    error: float

    @property
    def accuracy(self) -> float:
        return sum(self.right_by_depth) / (self.samples * len(self.right_by_depth))


PERFECT = Row("dense", "end", 0, None, 1.0, 1, (1,), 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Breaking:
    """Where a method breaks.

    Args:
        holds: the lowest density from which on every row is at the bar; None if the densest is not.
        breaks: the highest density below the bar; None if there is no such row.
    """

    holds: float | None
    breaks: float | None

    def __str__(self) -> str:
        if self.holds is None:
            return f"never holds, up to {self.breaks:.2f}" if self.breaks is not None else "-"
        if self.breaks is None:
            return f"holds at {self.holds:.2f}, the lowest measured"
        return f"holds at {self.holds:.2f}, breaks at {self.breaks:.2f}"


def breaking(points: Iterable[tuple[float, float]], dense: float) -> Breaking:
    """From (density, accuracy) of one method and the accuracy of dense."""
    holds = None
    for density, accuracy in sorted(points, reverse=True):
        if accuracy < BAR * dense:
            return Breaking(holds, density)
        holds = density
    return Breaking(holds, None)


def pooled(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """(mean density, accuracy over all questions) of every method, at each density asked for."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        if row.asked is not None:
            groups.setdefault((row.method, row.asked), []).append(row)
    points: dict[str, list[tuple[float, float]]] = {}
    for (method, _), group in groups.items():
        points.setdefault(method, []).append((fmean(row.density for row in group), accuracy(group)))
    return points


def accuracy(rows: Sequence[Row]) -> float:
    asked = sum(row.samples * len(row.right_by_depth) for row in rows)
    return sum(sum(row.right_by_depth) for row in rows) / asked


def report(rows: Sequence[Row]) -> str:
    """Markdown: for each mode what every method's breaking density is; the rows are in the JSON."""
    parts = []
    for mode in dict.fromkeys(row.mode for row in rows):
        here = [row for row in rows if row.mode == mode]
        lengths = sorted({row.length for row in here if row.method != "dense"})
        parts += [
            f"### Questions: {mode}",
            "",
            breaking_table(here, lengths),
            "",
            goal_sentence(here, lengths),
            "",
        ]
    parts += ["### Dense", "", dense_table(rows), ""]
    return "\n".join(parts)


def of_dense(rows: Sequence[Row], lengths: Sequence[int]) -> float:
    """Dense's accuracy over all questions of these lengths; 1 without any."""
    return accuracy([row for row in rows if row.method == "dense" and row.length in lengths] or [PERFECT])


def breaking_table(rows: Sequence[Row], lengths: Sequence[int]) -> str:
    """The breaking density of every method, over all lengths and for each."""
    long = [length for length in lengths if length >= LONG]
    table = []
    for method in pooled(rows):
        mine = [row for row in rows if row.method in (method, "dense")]
        cells = [method]
        for some in (long, *([length] for length in lengths)):
            of_some = [each for each in mine if each.length in some]
            cells.append(str(breaking(pooled(of_some).get(method, []), of_dense(of_some, some))))
        table.append(cells)
    return markdown(["method", f"{LONG:,} tokens and more", *(f"{n:,} tokens" for n in lengths)], table)


def goal_sentence(rows: Sequence[Row], lengths: Sequence[int]) -> str:
    """Which methods hold the bar at the goal's density, over the long lengths."""
    lengths = [length for length in lengths if length >= LONG]
    rows = [row for row in rows if row.length in lengths]
    dense = of_dense(rows, lengths)
    held = {method: breaking(points, dense).holds for method, points in pooled(rows).items()}
    meets = [method for method, density in held.items() if density is not None and density <= GOAL + 0.005]
    bar = f"At least {BAR:.0%} of dense's accuracy ({dense:.3f}) at density {GOAL} and above"
    return f"{bar}, from {LONG:,} tokens on: {', '.join(meets) or 'none'}."


def dense_table(rows: Sequence[Row]) -> str:
    table = []
    for row in sorted((row for row in rows if row.method == "dense"), key=lambda row: (row.mode, row.length)):
        asked = row.samples * len(row.right_by_depth)
        losses = f"{row.answer_nll:.3f}", f"{row.text_nll:.3f}"
        table.append([row.mode, f"{row.length:,}", sum(row.right_by_depth), asked, *losses])
    return markdown(["questions", "length", "right", "of", "answer NLL", "text NLL"], table)


def plot(rows: Sequence[Row]) -> str:
    """Accuracy by density as SVG, questions at the end, no dense queries, over the long lengths.

    Raises:
        ValueError: if there is nothing to draw.
    """
    lines = pooled([row for row in rows if row.mode == "end" and row.length >= LONG]) or pooled(rows)
    panel = Panel("needle-llama", lines)
    return line_plot(
        [panel],
        "density, everything executed counted",
        "share of answers that are right",
        log=False,
        mark=GOAL,
    )
