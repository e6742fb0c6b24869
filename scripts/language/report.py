"""What the needle bench says: tables, the density at which each method breaks, and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.comparison.axis import Axis

BAR = 0.99
GOAL = 0.3
LONG = 4096  # tokens; of shorter prompts what is kept anyway is more than the densities asked for
BEGIN, END = "<!-- bench_needle: begin -->", "<!-- bench_needle: end -->"
WIDTH, HEIGHT = 620, 380
LEFT, RIGHT, TOP, BOTTOM = 60, WIDTH - 200, 40, HEIGHT - 50
COLOURS = (
    "#1f6feb", "#d97706", "#2da44e", "#cf222e", "#8250df",
    "#57606a", "#bf3989", "#0f766e", "#953800", "#111111",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One method at one length and density. `dense` is a method too, of density 1.

    Args:
        mode: where the questions stand and whether the last queries are dense.
        asked: the density asked for; none is what the recipe has by itself.
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
        holds: the lowest density from which on every row is at the bar; none if the densest is not.
        breaks: the highest density below the bar; none if there is no such row.
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
        points.setdefault(method, []).append((mean(row.density for row in group), accuracy(group)))
    return points


def accuracy(rows: Sequence[Row]) -> float:
    asked = sum(row.samples * len(row.right_by_depth) for row in rows)
    return sum(sum(row.right_by_depth) for row in rows) / asked


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


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
    lines = [
        cells(["method", f"{LONG:,} tokens and more", *(f"{n:,} tokens" for n in lengths)]),
        "|---" * (2 + len(lengths)) + "|",
    ]
    for method in pooled(rows):
        mine = [row for row in rows if row.method in (method, "dense")]
        row = [method]
        for some in ([length for length in lengths if length >= LONG], *([length] for length in lengths)):
            of_some = [each for each in mine if each.length in some]
            points = pooled(of_some).get(method, [])
            row.append(str(breaking(points, of_dense(of_some, some))))
        lines.append(cells(row))
    return "\n".join(lines)


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
    lines = [cells(["questions", "length", "right", "of", "answer NLL", "text NLL"]), "|---" * 6 + "|"]
    for row in sorted((row for row in rows if row.method == "dense"), key=lambda row: (row.mode, row.length)):
        asked = row.samples * len(row.right_by_depth)
        figures = [f"{sum(row.right_by_depth)}", f"{asked}", f"{row.answer_nll:.3f}", f"{row.text_nll:.3f}"]
        lines.append(cells([row.mode, f"{row.length:,}", *figures]))
    return "\n".join(lines)


def cells(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def insert(page: Path, text: str) -> None:
    """Put the report between the page's markers, or at its end if it has none; all else stays."""
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after or chr(10)}", encoding="utf-8")


def plot(rows: Sequence[Row]) -> str:
    """Accuracy by density as SVG, questions at the end, no dense queries, over the long lengths.

    Raises:
        ValueError: if there is nothing to draw.
    """
    lines = pooled([row for row in rows if row.mode == "end" and row.length >= LONG]) or pooled(rows)
    if not lines:
        raise ValueError("a plot needs at least one row of a method at a density")
    x = Axis("density, everything executed counted", 0, 1, LEFT, RIGHT, 0.2)
    y = Axis("share of answers that are right", 0, 1, BOTTOM, TOP, 0.2)
    body = "\n".join([*frame(x, y), *curves(lines, x, y)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def frame(x: Axis, y: Axis) -> list[str]:
    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">needle-llama: {y.label}</text>']
    for at, text in y.ticks:
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{text}</text>')
    for at, text in x.ticks:
        parts.append(f'<text x="{at}" y="{BOTTOM + 18}" text-anchor="middle">{text}</text>')
    goal = x.at(GOAL)
    parts.append(
        f'<line x1="{goal}" x2="{goal}" y1="{TOP}" y2="{BOTTOM}" stroke="#666" stroke-dasharray="5 4"/>'
    )
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{x.label}</text>')
    return parts


def curves(lines: dict[str, list[tuple[float, float]]], x: Axis, y: Axis) -> list[str]:
    parts = []
    for number, (method, values) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x.at(density), y.at(right)) for density, right in sorted(values)]
        path = " ".join(f"{a},{b}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a}" cy="{b}" r="3.5" fill="{colour}"/>' for a, b in points]
        parts.append(f'<text x="{RIGHT + 12}" y="{TOP + 16 * number}" fill="{colour}">{method}</text>')
    return parts
