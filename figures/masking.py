"""What hiding the answer does to the confidence, for each question and for each level.

It draws a run's records and estimates; how an answer is hidden is the instrument's business."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures.captions import Page, RunData, caption, digits, in_words, interval, marked
from figures.style import DOUBLE, HIDDEN_COLOURS, INK, ROLE_COLOURS, drawn_sides
from interp.formats import FORMATS
from interp.intervals import Estimate
from interp.measures import MaskingRecord
from interp.run.runs import means_by_question


@dataclass(frozen=True)
class Hidden:
    """The confidence before and after one way of hiding the answer."""

    name: str
    """The replacement or knockout, by its name in the records."""
    words: str
    """Its name in the figure."""
    pairs: tuple[tuple[float, float], ...]
    """(seen, masked) expected confidence of each question that has both."""
    seen: Estimate
    """Mean expected confidence with the answer in sight."""
    masked: Estimate
    """Mean expected confidence with the answer hidden."""
    drop: Estimate
    """Mean of seen minus masked, paired by question. 0: the confidence does not need the answer."""
    before: tuple[float, ...]
    """Mean probability of each level with the answer in sight, sums to 1."""
    after: tuple[float, ...]
    """Mean probability of each level with the answer hidden, sums to 1."""


@dataclass(frozen=True)
class Masking:
    """Every way of hiding the answer that a run has measured."""

    levels: tuple[str, ...]
    """The format's levels in rising order of value."""
    hidden: tuple[Hidden, ...]
    """In the order in which they are declared."""


def maskings(run: RunData, words: Mapping[str, str]) -> Masking:
    """The figure's data.

    Args:
        run: The run's records and estimates.
        words: The title of each way of hiding the answer, by its name in the records.

    Returns:
        The ways of hiding the answer that the run has measured, in the order of `words`.
    """
    records = run.of(MaskingRecord)
    names = [name for name in words if any(name in record.masked for record in records)]
    levels = FORMATS[run.subject.format].levels
    return Masking(levels, tuple(_hidden(name, words[name], records, run) for name in names))


def _hidden(name: str, words: str, records: Sequence[MaskingRecord], run: RunData) -> Hidden:
    questions = means_by_question((record.id, record.values) for record in records).values()
    confidences = [(values["seen"], values.get(f"{name}.masked")) for values in questions]
    with_both = [record for record in records if name in record.masked]
    return Hidden(
        name=name,
        words=words,
        pairs=tuple((seen, masked) for seen, masked in confidences if seen is not None and masked is not None),
        seen=run.estimate("masking.seen"),
        masked=run.estimate(f"masking.{name}.masked"),
        drop=run.estimate(f"masking.{name}.drop"),
        before=_mean_distribution((record.id, record.seen.probability) for record in with_both),
        after=_mean_distribution((record.id, record.masked[name].probability) for record in with_both),
    )


def _mean_distribution(distributions: Iterable[tuple[str, Sequence[float]]]) -> tuple[float, ...]:
    """The mean probability of each level, [levels]: over sets of worked examples first, then over questions.

    distributions: (the question's id, its probability of each level under one set)."""
    by_level = ((identity, dict(enumerate(probability))) for identity, probability in distributions)
    questions = [tuple(means.values()) for means in means_by_question(by_level).values()]
    return tuple(sum(level) / len(questions) for level in zip(*questions, strict=True))


def draw_pairs(hidden: Hidden, ax: Axes) -> Axes:
    """One thin line for each question from seen to masked, and the means with their intervals."""
    colour = HIDDEN_COLOURS[hidden.name]
    lines = [((0, seen), (1, masked)) for seen, masked in hidden.pairs]
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=0.5, alpha=0.35))
    for x, mean in enumerate((hidden.seen, hidden.masked)):
        if mean.low is not None and mean.high is not None:
            ax.plot((x, x), (mean.low, mean.high), color=INK, lw=1.8, solid_capstyle="butt", zorder=3)
    if hidden.seen.value is not None and hidden.masked.value is not None:
        means = (hidden.seen.value, hidden.masked.value)
        ax.plot((0, 1), means, "o-", color=INK, mfc=colour, mec=INK, mew=0.7, ms=4.5, lw=1.2, zorder=4)
    if hidden.drop.value is not None:
        drop = marked(hidden.drop, digits(hidden.drop.value))
        ax.text(0.5, 0.04, f"drop {drop}\n{interval(hidden.drop)}", ha="center", va="bottom", size=6.5)
    ax.set_xticks((0, 1), ("seen", "hidden"))
    ax.set(xlim=(-0.3, 1.3), ylim=(0, 1), ylabel="expected confidence")
    return ax


def draw_levels(hidden: Hidden, levels: Sequence[str], ax: Axes) -> Axes:
    """The mean confidence distribution: answer in sight as bars, hidden as a line."""
    places = range(len(levels))
    ax.bar(places, hidden.before, width=0.9, color=ROLE_COLOURS["seen"], alpha=0.6, lw=0)
    marker = "o" if len(levels) <= 11 else ""
    ax.plot(places, hidden.after, color=HIDDEN_COLOURS[hidden.name], marker=marker, ms=2.8, lw=1.1)
    shown = list(places)[:: 1 if len(levels) <= 10 else len(levels) // 2]
    ax.set_xticks(shown, [levels[i] for i in shown], rotation=40 if len(levels[0]) > 4 else 0)
    ax.set(xlabel="confidence level", ylabel="mean probability")
    return ax


HOW_TO_READ = """\
One column for each way of hiding the answer from the confidence: its tokens replaced by as many tokens that say
nothing, or attention to them knocked out (from the place of the confidence alone, which leaves the way through the
tokens between; or from everything after the answer). Above: expected confidence of each question with the answer in
sight and hidden (thin lines) and the mean with its 95 % interval (dots). Flat lines: the confidence does not need
the answer. Below: the mean confidence distribution over the levels with the answer in sight (bars) and hidden
(line); lying on the bars means that nothing changed. A replacement changes what the text says, so claim only what
two agree on."""


def masking_page(run: RunData, words: Mapping[str, str]) -> Page:
    """The masking figure. words: as `maskings` takes them."""
    data = maskings(run, words)
    figure = Figure((DOUBLE, 3.2), layout="constrained")
    grid = figure.subplots(2, len(data.hidden), sharey="row", squeeze=False)
    for number, hidden in enumerate(data.hidden):
        draw_pairs(hidden, grid[0, number]).set_title(_wrapped(hidden.words), color=HIDDEN_COLOURS[hidden.name])
        draw_levels(hidden, data.levels, grid[1, number])
        if number:
            grid[0, number].set_ylabel("")
            grid[1, number].set_ylabel("")
    handles = [
        Line2D([], [], color=INK, lw=0.5, label="one question"),
        Line2D([], [], color=INK, marker="o", mfc="white", ms=4.5, label="mean and 95 % interval"),
        Patch(fc=ROLE_COLOURS["seen"], alpha=0.6, label="answer in sight"),
        Line2D([], [], color=INK, marker="o", ms=2.8, label="answer hidden"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.2)
    return Page("masking", figure, caption(HOW_TO_READ, _numbers(data), run.subject))


def _wrapped(words: str) -> str:
    """A title that fits its column."""
    return textwrap.fill(words, 22)


def _numbers(data: Masking) -> dict[str, str]:
    numbers = {"expected confidence, answer in sight": in_words(data.hidden[0].seen)}
    for hidden in data.hidden:
        numbers |= {f"{hidden.words}, hidden": in_words(hidden.masked), f"{hidden.words}, drop": in_words(hidden.drop)}
    return numbers


COMPARED_BY = "mean"
"""The way of hiding the answer under which two runs' confidence distributions are drawn."""


def compared_levels(before: RunData, after: RunData, words: Mapping[str, str]) -> tuple[Figure, str]:
    """The mean confidence distribution of both runs, with the answer in sight and hidden, and how to read it."""
    sides = [maskings(run, {COMPARED_BY: words[COMPARED_BY]}) for run in (before, after)]
    figure = drawn_sides(lambda i, ax: draw_levels(sides[i].hidden[0], sides[i].levels, ax), 2.0)
    return figure, (
        "The mean confidence distribution with the answer in sight (bars) and with its tokens replaced by the mean "
        "embedding (line). A line on the bars means that the confidence does not need the answer."
    )
