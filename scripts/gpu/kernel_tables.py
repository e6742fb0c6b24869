"""Tables of the kernels' speed: against the targets, row by row, peers, options, and planning."""

from __future__ import annotations

from scripts.gpu.found import Found, Row, cell, first_line, met_or_missed, table
from scripts.gpu.stages import gpu_tiers
from scripts.line_plot import Panel, line_plot
from scripts.speed.options import BAR as TAIL_BAR
from scripts.speed.planning import BAR as PLANNING_BAR
from scripts.speed.targets import (
    EIGHT_BIT,
    MAIN,
    NARROW_BAR,
    RAGGED,
    RAGGED_BAR,
    TARGETS,
    best_of,
    held_against,
    share_of,
)

ROW = ("tier", "block_size", "density", "dense_ms", "sparse_ms", "times_faster", "rate", "error")


def targets(found: Found) -> list[str]:
    """The table of targets: what was wanted, what was measured, met or missed."""
    rows, lines = found.kernel_rows, []
    for target in TARGETS:
        held = held_against(target, rows, gpu_tiers())
        best = held["best"] or dict.fromkeys(ROW)
        lines.append(
            [
                target.shape + (f", {target.tier} tier" if target.tier else ""),
                target.density,
                f"{target.rate:.2f}",
                best["rate"],
                f"{best['tier']}, {best['block_size']}" if held["best"] else "",
                best["dense_ms"],
                best["sparse_ms"],
                best["error"],
                met_or_missed(held["met"]),
            ]
        )
    head = ("shape", "density", "target", "block rate", "by", "dense, ms", "sparse, ms", "error", "")
    return [
        "*Block rate*: executed blocks a second as a share of dense attention's in the same run, calls "
        "interleaved; medians. *Error*: relative, of the first and last 256 queries, against float64.",
        "",
        *table(head, lines),
        *shares(rows),
        *eight_bit(rows),
        "",
    ]


def shares(rows: list[Row]) -> list[str]:
    """Ragged lists against equal ones, and narrow blocks of keys against blocks of 64, tier by tier."""
    lines = []
    for tier in gpu_tiers():
        at = {"shape": RAGGED[0], "asked": RAGGED[1], "block_size": "128x64"}
        ragged = share_of(rows, tier, {**at, "ragged": True}, {**at, "ragged": False})
        at = {"shape": MAIN, "asked": 0.25, "ragged": False}
        narrow = share_of(rows, tier, {**at, "block_size": "128x32"}, {**at, "block_size": "128x64"})
        for what, share, bar in (
            ("ragged lists, of the rate of equal ones", ragged, RAGGED_BAR),
            ("key blocks of 32, as a share of the rate with 64", narrow, NARROW_BAR),
        ):
            met = None if share is None else share >= bar
            lines.append(f"- {tier}: {what}: {cell(share)} (at least {bar}: {met_or_missed(met)})")
    return lines


def eight_bit(rows: list[Row]) -> list[str]:
    """int8 against the best of the others, rate and error, on the main shape."""
    lines = []
    others = [tier for tier in gpu_tiers() if tier not in EIGHT_BIT]
    for density in (1.0, 0.5, 0.25, 0.1):
        wide, narrow = (best_of(rows, tiers, MAIN, density) for tiers in (others, list(EIGHT_BIT)))
        share = narrow["rate"] / wide["rate"] if narrow and wide else None
        errors = f", error {cell(narrow['error'])} against {cell(wide['error'])}" if narrow and wide else ""
        lines.append(f"- int8 at density {density}, of the best rate in bfloat16: {cell(share)}{errors}")
    return lines


def all_rows(found: Found) -> list[str]:
    """Every row by shape, and what failed."""
    rows = found.kernel_rows
    if not rows:
        return [found.why_not("kernels"), ""]
    head = ("shape", "lists", *(name.replace("_", " ") for name in ROW))
    cells = [
        [row["shape"], "ragged" if row["ragged"] else "equal", *(row[name] for name in ROW)] for row in rows
    ]
    failed = [f"- {key}: {first_line(reason)}" for key, reason in found.failures("kernels").items()]
    kinds = ", ".join(sorted({f"{row['dtype']} against {row['dense']}" for row in rows}))
    return [f"{kinds}.", "", *table(head, cells), *(["Failed:", "", *failed, ""] if failed else [])]


def peers(found: Found) -> list[str]:
    """Other projects' kernels on our layouts, density 0.25, blocks of 128 x 128."""
    rows = found.rows("peers")
    if not rows:
        return [found.why_not("peers"), ""]
    head = ("shape", "kernel", "dense, ms", "its ms", "block rate", "error")
    cells = [
        [row["shape"], row["tier"], row["dense_ms"], row["sparse_ms"], row["rate"], row["error"] or "dense"]
        for row in rows
    ]
    absent = {**found.failures("peers"), **found.skipped("peers")}
    return [*table(head, cells), *(f"- {name}: {first_line(why)}" for name, why in absent.items()), ""]


def planning(found: Found) -> list[str]:
    """Every stage, and whole plans against the bar."""
    rows = found.rows("planning")
    if not rows:
        return [found.why_not("planning"), ""]
    cells = [
        [
            row["key"],
            row["ms"],
            f"{row['share']:.2%}",
            met_or_missed(row["share"] <= PLANNING_BAR) if row["key"].startswith("plan: ") else "",
        ]
        for row in rows
    ]
    first = rows[0]
    return [
        f"{first['shape']}, blocks of {first['block_size']}, dense {cell(first['dense_ms'])} ms. A plan, "
        f"from q and k to lists, may take {PLANNING_BAR:.0%} of it.",
        "",
        *table(("stage", "ms", "of dense", ""), cells),
    ]


def options(found: Found) -> list[str]:
    """What a tail and orders add."""
    rows = found.rows("options")
    if not rows:
        return [found.why_not("options"), ""]
    head = ("tier", "option", "without, ms", "with, ms", "pooling, ms", "added", "")
    cells = [
        [
            row["tier"],
            row["option"],
            row["without_ms"],
            row["with_ms"],
            row["pooling_ms"] if row["option"] == "tail" else "",
            f"{row['added']:.1%}",
            met_or_missed(row["added"] <= TAIL_BAR) if row["option"] == "tail" else "",
        ]
        for row in rows
    ]
    first = rows[0]
    return [
        f"{first['shape']}, blocks of {first['block_size']}, density {first['density']}. A tail may add "
        f"{TAIL_BAR:.0%} beyond the pooling of keys and values.",
        "",
        *table(head, cells),
    ]


def plot(found: Found) -> str | None:
    """Block rate against density on the main shape, a line a tier and key block; None if not measured."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in found.kernel_rows:
        if row["shape"] == MAIN and not row["ragged"]:
            lines.setdefault(f"{row['tier']}, {row['block_size']}", []).append((row["density"], row["rate"]))
    if not lines:
        return None
    panel = Panel(MAIN, {name: sorted(points) for name, points in lines.items()})
    return line_plot([panel], "density", "block rate, cuDNN dense = 1")
