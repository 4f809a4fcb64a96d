"""The look of every figure, and how it is saved: colours, widths, fonts, files.

It knows no measure; colours and markers are chosen here so that one thing has one colour in every figure."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from interp.records import MassSpan

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

SINGLE, DOUBLE = 3.3, 6.9
"""Inches: the width of one column, and of both, in a two-column paper."""
DOTS_PER_INCH = 300

_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _BROWN, _PINK, _GREY, _YELLOW, _SKY = sns.color_palette("colorblind").as_hex()

SPAN_COLOURS: dict[MassSpan, str] = {
    "special": _GREY,
    "instruction": _BROWN,
    "shots": _PURPLE,
    "question": _BLUE,
    "answer": _RED,
    "tail": _GREEN,
    "confidence": "#222222",
    "sink": _YELLOW,
}
"""One colour per span, in every figure."""

ROLE_COLOURS = {
    "jsd": _BLUE,
    "branched": _GREEN,
    "pairs": _SKY,
    "hint": _ORANGE,
    "noise_floor": _GREY,
    "wrong_wrong": _SKY,
    "branched_wrong_wrong": _SKY,
    "candidates": _SKY,
    "filled_candidates": _SKY,
    "foil": _PURPLE,
    "foreign": _SKY,
    "seen": _GREY,
    "null": "#555555",
}
"""One colour per kind of comparison."""

WRONG_MARKERS = {"jsd": "o", "branched": "s", "foil": "^"}
"""Sources of wrong answers differ in colour and in marker."""

HIDDEN_COLOURS = {
    "neutral": _BLUE,
    "mean": _ORANGE,
    "pad": _BROWN,
    "confidence_to_answer": _GREEN,
    "later_to_answer": _RED,
}
"""One colour for each way of hiding the answer."""
REPLACEMENT_MARKERS = {"neutral": "o", "mean": "s", "pad": "^"}
"""Replacements of tokens differ in marker."""

RIGHT, WRONG = _BLUE, _ORANGE
"""Right and wrong answers."""
_IN_TURN = (_BLUE, _SKY, _RED, _PINK, _GREEN, _BROWN, _YELLOW, _GREY, "#555555", _PURPLE, _ORANGE)
_MARKS_IN_TURN = "oosDv^<XPhd"
SIDE_TITLES = ("before", "after")
"""The titles of two runs side by side."""


def nth_style(number: int) -> tuple[str, str]:
    """(colour, marker) of number `number` among several things drawn together; no two of the first forty are alike."""
    rounds, place = divmod(number, len(_IN_TURN))
    return _IN_TURN[place], _MARKS_IN_TURN[(place + 3 * rounds) % len(_MARKS_IN_TURN)]


def drawn_sides(draw: Callable[[int, Axes], object], height: float) -> Figure:
    """A figure with two axes side by side on one scale, titled before and after.

    Args:
        draw: Draws run 0 or 1 on the given axes.
        height: The figure's height, in inches.
    """
    figure = Figure((DOUBLE, height), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for number, ax in enumerate(axes):
        draw(number, ax)
        ax.set_title(f"{'ab'[number]}  {SIDE_TITLES[number]}")
    axes[1].set_ylabel("")
    return figure


INK = "#222222"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
FAMILY, MONOSPACED = "DejaVu Sans", "DejaVu Sans Mono"
"""Both come with matplotlib, so that every machine has them."""
SETTINGS: "dict[RcKeyType, object]" = {
    "font.family": FAMILY,
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 0,
    "lines.linewidth": 1.0,
    "patch.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "axes.axisbelow": True,
    "savefig.dpi": DOTS_PER_INCH,
    "pdf.fonttype": 42,
    "text.hinting": "no_hinting",
}
"""Sizes in points as printed. Font type 42 embeds the font itself, which journals ask for. Without hinting a line of
monospaced text is as wide as its characters, at any resolution."""


@contextmanager
def paper() -> Iterator[None]:
    """The style of all figures while the block lasts; afterwards matplotlib's settings are as before."""
    with mpl.rc_context(SETTINGS):
        yield


@cache
def _glyphs(family: str) -> frozenset[int]:
    """Characters that a font can draw."""
    return frozenset(get_font(findfont(FontProperties(family=family))).get_charmap())


def printable(text: str, family: str = FAMILY) -> str:
    """The text as matplotlib draws it literally: what the font lacks becomes a box, a dollar sign starts no formula."""
    return "".join(c if ord(c) in _glyphs(family) else "□" for c in text).replace("$", r"\$")


def power_of_ten(value: float, _: int | None = None) -> str:
    """A power of ten as a short label: 1, 0.1, 0.01, 10⁻³ and so on."""
    exponent = round(math.log10(value))
    return f"{10.0**exponent:g}" if -3 < exponent < 3 else "10" + str(exponent).translate(SUPERSCRIPTS)


def logarithmic(axis: Axis) -> None:
    """Labels a logarithmic axis with at most five powers of ten."""
    axis.set_major_locator(LogLocator(numticks=5))
    axis.set_major_formatter(FuncFormatter(power_of_ten))
    axis.set_minor_locator(NullLocator())


def with_fixed_layout(figure: Figure) -> Figure:
    """The figure with its layout computed once; an engine would compute it again for each file that is written."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    return figure


def saved(figure: Figure, folder: Path, name: str, caption: str) -> None:
    """Writes `name`.png, `name`.pdf and the caption as `name`.txt.

    Drawing the same records again gives the same files, byte for byte.

    Args:
        figure: The figure; its layout is fixed by this call.
        folder: Where the files go; it is made where it does not exist.
        name: The file name without its ending.
        caption: How to read the figure, and its numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with paper():
        with_fixed_layout(figure)
        figure.savefig(folder / f"{name}.png", dpi=DOTS_PER_INCH)
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
