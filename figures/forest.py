"""Any numbers with their intervals, one in a row: the figure of an instrument that has no drawing of its own."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.captions import in_words, percent
from figures.style import DOUBLE, INK, drawn_sides, nth_style, printable
from interp.intervals import Estimate

ROW, MARGIN = 0.2, 0.8
"""Inches: the height of a row, and of title and axis together."""
Rows = Mapping[str, Estimate]
"""Numbers of one unit by their names, in the order of the rows."""


def draw_forest(rows: Rows, unit: str, ax: Axes, number: int = 0) -> Axes:
    """A dot with its interval for each number that has a value.

    Args:
        rows: The numbers by name.
        unit: Their unit, which is written below the axis.
        ax: Where they are drawn.
        number: Decides the colour and the marker.
    """
    colour, marker = nth_style(number)
    for row, estimate in enumerate(rows.values()):
        if estimate.low is not None and estimate.high is not None:
            ax.plot((estimate.low, estimate.high), (row, row), color=colour, lw=2, solid_capstyle="butt")
        if estimate.value is not None:
            ax.plot(estimate.value, row, marker, color=colour, mec="white", mew=0.5, ms=5)
    if any(estimate.value is not None and estimate.value < 0 for estimate in rows.values()):
        ax.axvline(0, color=INK, lw=0.6)
    ax.set_yticks(range(len(rows)), [printable(name) for name in rows])
    ax.set(ylim=(max(len(rows), 1) - 0.5, -0.5), xlabel=unit)
    ax.grid(axis="x", color="#dddddd", lw=0.5)
    ax.tick_params(axis="y", length=0)
    return ax


def forest(by_unit: Mapping[str, Rows]) -> Figure:
    """One panel for each unit, below each other, each with its own axis."""
    heights = [ROW * len(rows) + MARGIN for rows in by_unit.values()]
    figure = Figure((DOUBLE * 0.72, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for number, (ax, (unit, rows)) in enumerate(zip(axes, by_unit.items(), strict=True)):
        draw_forest(rows, unit, ax, number)
    return figure


def compared_forest(sides: Sequence[Rows], unit: str) -> Figure:
    """The same numbers of two runs side by side."""
    return drawn_sides(lambda i, ax: draw_forest(sides[i], unit, ax), ROW * len(sides[0]) + MARGIN)


def numbers_of(by_unit: Mapping[str, Rows]) -> dict[str, str]:
    """The numbers in words, for a caption."""
    return {
        name: in_words(estimate, percent) if unit == "share" else in_words(estimate)
        for unit, rows in by_unit.items()
        for name, estimate in rows.items()
    }


HOW_TO_READ = "A row for each number: the dot is its value, the bar its 95 % interval."
