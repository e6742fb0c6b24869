"""Line plots as SVG: panels side by side, one legend."""

from __future__ import annotations

import io
from dataclasses import dataclass

WIDTH, HEIGHT, LEGEND = 4.4, 3.6, 2.2  # inches
Point = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """One plot.

    Args:
        lines: points (x, y) by name; a line of one point is drawn as a mark.
    """

    title: str
    lines: dict[str, list[Point]]


def line_plot(
    panels: list[Panel],
    x_label: str,
    y_label: str,
    dashed: tuple[str, ...] = (),
) -> str:
    """SVG text, the same for the same points. The y axis is logarithmic and the same in all panels; each line
    is a group whose id is its name.

    Args:
        dashed: names of the lines drawn so.

    Raises:
        ValueError: if there is no line to draw.
    """
    if not any(panel.lines for panel in panels):
        raise ValueError("a plot needs at least one line")
    # matplotlib is only in the dev extra.
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    figure = Figure((WIDTH * len(panels) + LEGEND, HEIGHT), layout="constrained")
    found = {}
    plots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(plots, panels, strict=True):
        axes.set_title(panel.title, fontsize="medium")
        axes.set(xlabel=x_label, yscale="log")
        axes.grid(axis="y", color="#e4e4e4")
        for name, points in panel.lines.items():
            style = {"color": f"C{names.index(name)}", "linestyle": "--" if name in dashed else "-"}
            (found[name],) = axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, **style)
            found[name].set_gid(name)
    plots[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plots[0].yaxis.set_major_formatter("{x:g}")
    plots[0].yaxis.set_minor_locator(NullLocator())
    plots[0].set_ylabel(y_label)
    figure.legend([found[name] for name in names], names, loc="outside right upper")
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sparse-accel"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
