"""Figure 2: how far the confidence moves when the right answer is replaced by a wrong one.

It bins the divergences of a run's records and draws the run's estimates; it needs no model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures.captions import Page, RunData, caption, in_words, interval, percent
from figures.style import DOUBLE, INK, ROLE_COLOURS, SIDE_TITLES
from interp.divergence import LIMIT, NEAR_ZERO, pairwise_divergences
from interp.intervals import Estimate
from interp.measures import DivergenceRecord
from interp.run.runs import means_by_question

LEAST = 1e-5
"""Smaller divergences are drawn in the first bin: on a logarithmic axis 0 has no place."""
EDGES = (*np.geomspace(LEAST, NEAR_ZERO, 17).tolist(), *np.geomspace(NEAR_ZERO, LIMIT, 5).tolist()[1:])
"""Bin edges in nats. Each bin is closed on the right, and the paper's line, at most 0.1, is an edge."""
TICKS = (LEAST, 1e-4, 1e-3, 1e-2, NEAR_ZERO, LIMIT)
TICK_LABELS = ("≤10⁻⁵", "10⁻⁴", "10⁻³", "0.01", "0.1", "ln 2")

COMPARISONS = {
    "jsd": ("jsd.median", "right and wrong, sampled (paper)"),
    "branched": ("jsd.branched.median", "right and wrong, branched"),
    "foil": ("jsd.same_relation.median", "right and wrong, same relation"),
    "candidates": ("jsd.candidates", "all pairs, sampled (paper)"),
    "filled_candidates": ("jsd.filled.candidates", "all pairs, sampled and branched"),
    "wrong_wrong": ("jsd.wrong_wrong", "two wrong answers, sampled"),
    "branched_wrong_wrong": ("jsd.branched.wrong_wrong", "two wrong answers, branched"),
    "foreign": ("jsd.other_question", "answer to another question"),
    "noise_floor": ("jsd.noise_floor", "same answer, surface form"),
    "hint": ("jsd.positive_control", "hint: the answer is wrong"),
}
"""The comparisons by their names in the records: the key of the median, and the label beside an axis."""
KINDS = {
    "jsd": ("jsd.near_zero_share", "wrong answer sampled (paper)"),
    "branched": ("jsd.branched.near_zero_share", "wrong answer branched"),
    "foil": ("jsd.same_relation.near_zero_share", "wrong answer of the same relation"),
    "pairs": ("jsd.pairs.near_zero_share", "all pairs of sampled answers (paper)"),
}
"""The comparisons with a histogram of their own: the key of the share at most 0.1, and the histogram's title."""


@dataclass(frozen=True)
class Spread:
    """How the divergences of one kind of comparison are spread, in nats from 0 to ln 2."""

    counts: tuple[int, ...]
    """Questions, or pairs of answers, in each bin of EDGES."""
    near_zero: Estimate
    """Share of them at most NEAR_ZERO, in [0, 1]; its n counts questions."""
    below: int
    """How many lie below the axis and are drawn in the first bin."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(EDGES) - 1:
            raise ValueError(f"{len(self.counts)} bins instead of {len(EDGES) - 1}")


@dataclass(frozen=True)
class Divergences:
    """Per-question Jensen-Shannon divergences in nats, from 0 to ln 2, apart by where the wrong answer comes from."""

    spreads: dict[str, Spread]
    """By the name in `KINDS`; a kind that no question has is absent."""
    hint_counts: tuple[int, ...]
    """Questions in each bin of EDGES: without and with the hint that the answer is wrong."""
    medians: dict[str, Estimate]
    """The median of each comparison that has one, by its name in the records."""
    numerical: Estimate | None = None
    """The median divergence of the same answer read twice; None where that was not measured."""


def divergences(run: RunData) -> Divergences:
    """The figure's data; a question without a value is counted, not binned."""
    records = run.of(DivergenceRecord)
    questions = list(means_by_question((record.id, record.values) for record in records).values())
    values = {kind: _values(questions, kind) for kind in ("jsd", "branched", "foil")} | {"pairs": _of_pairs(records)}
    medians = {name: run.estimate(key) for name, (key, _) in COMPARISONS.items()}
    return Divergences(
        spreads={
            kind: Spread(_binned(in_nats), run.estimate(KINDS[kind][0]), sum(value <= LEAST for value in in_nats))
            for kind, in_nats in values.items()
            if in_nats
        },
        hint_counts=_binned(_values(questions, "hint")),
        medians={name: median for name, median in medians.items() if median.value is not None},
        numerical=run.estimates.get("floor.jsd"),
    )


def _values(questions: Iterable[Mapping[str, float | None]], name: str) -> list[float]:
    return [value for values in questions if (value := values.get(name)) is not None]


def _of_pairs(records: Sequence[DivergenceRecord]) -> list[float]:
    """The divergence of every pair of sampled answers to a question, under every set of worked examples.

    Empty for runs whose records do not count pairs."""
    return [
        float(value)
        for record in records
        if record.values.get("pairs")
        for value in pairwise_divergences([answer.probability for answer in record.answers.get("candidate", ())])
    ]


def _binned(values: Sequence[float]) -> tuple[int, ...]:
    # "left": a value on an edge belongs to the bin below it; values beyond the axis are clipped to its end bins
    bins = np.clip(np.searchsorted(EDGES, values, side="left"), 1, len(EDGES) - 1) - 1
    return tuple(np.bincount(bins, minlength=len(EDGES) - 1).tolist())


def draw_divergence(measurement: Divergences, ax: Axes, kind: str) -> Axes:
    """The histogram of one kind, filled, over the noise floor as a band; outlined, that of the positive control.

    Args:
        measurement: The figure's data.
        ax: Where it is drawn.
        kind: A key of `KINDS`; for `pairs`, which counts no questions, the positive control is left out.
    """
    draw_floor(measurement.medians.get("noise_floor"), ax.axvspan, ax.axvline)
    draw_numerical(measurement.numerical, ax)
    widths = np.diff(EDGES)
    spread, colours = measurement.spreads.get(kind), ROLE_COLOURS
    if spread:
        ax.bar(EDGES[:-1], spread.counts, widths, align="edge", color=colours[kind], ec="white")
    if kind != "pairs":
        counts = measurement.hint_counts
        bars = ax.bar(EDGES[:-1], counts, widths, align="edge", fc="none", ec=colours["hint"], lw=1.1)
        for empty in (bar for bar, count in zip(bars, counts, strict=True) if not count):
            empty.set_visible(False)
    ax.axvline(NEAR_ZERO, color=INK, ls="--", lw=0.9)
    ax.set(xscale="log", xlim=(LEAST, LIMIT), xlabel="JSD of the confidence (nats)")
    ax.set_ylabel("pairs" if kind == "pairs" else "questions")
    ax.set_xticks(TICKS, TICK_LABELS)
    ax.set_xticks((), minor=True)
    ax.locator_params("y", integer=True)
    return ax


def draw_floor(floor: Estimate | None, band: Callable[..., object], line: Callable[..., object]) -> None:
    """The noise floor's median as a line and its interval as a band.

    Args:
        floor: The noise floor; nothing is drawn without a value.
        band: The axes' method that draws a band across the axis of divergences.
        line: The one that draws a line across it.
    """
    if floor is None or floor.value is None:
        return
    colour = ROLE_COLOURS["noise_floor"]
    if floor.low is not None and floor.high is not None:
        band(max(floor.low, LEAST), max(floor.high, LEAST), color=colour, alpha=0.3, lw=0)
    line(max(floor.value, LEAST), color=colour, lw=1.4)


def draw_numerical(floor: Estimate | None, ax: Axes) -> None:
    """The numerical floor's median as a dotted line; nothing where it lies below the axis."""
    if floor is not None and floor.value is not None and _on_axis(floor):
        ax.axvline(floor.value, color=INK, ls=":", lw=1.1)


def draw_comparisons(measurement: Divergences, ax: Axes) -> Axes:
    """The median of each comparison with its interval, on the histogram's axis."""
    names = [name for name in COMPARISONS if name in measurement.medians]
    for row, name in enumerate(names):
        median, colour = measurement.medians[name], ROLE_COLOURS[name]
        if median.low is not None and median.high is not None:
            ax.plot(
                (max(median.low, LEAST), max(median.high, LEAST)), (row, row), color=colour, lw=2, solid_capstyle="butt"
            )
        if median.value is not None:
            ax.plot(max(median.value, LEAST), row, "o", color=colour, ms=4.5, mec="white", mew=0.5)
    draw_numerical(measurement.numerical, ax)
    ax.axvline(NEAR_ZERO, color=INK, ls="--", lw=0.9)
    ax.set(xscale="log", xlim=(LEAST, LIMIT), xlabel="median JSD (nats)", ylim=(max(len(names), 1) - 0.5, -0.5))
    ax.set_xticks(TICKS, TICK_LABELS)
    ax.set_xticks((), minor=True)
    ax.set_yticks(range(len(names)), [COMPARISONS[name][1] for name in names])
    ax.tick_params(axis="y", length=0)
    return ax


HOW_TO_READ = """\
Above: for each question, the Jensen-Shannon divergence between the confidence stated after the model's own right
answer and after a wrong one; 0 means that the confidence does not react to the answer at all, ln 2 = 0.693 that the
two share no level. Wrong answers of different sources stand apart and are not pooled. Sampled, the paper's way:
top-p samples; questions on which the model gives no wrong sample are left out, so that those remain of which it is
unsure. Branched: the likeliest first tokens, each continued greedily, for every question. Same relation: the right
answer to another question. The pairs are all pairs of sampled answers to one question, the other half of the
paper's Figure 2; two pairs of one question are not independent, so that the interval of their share is Wilson's
with as many observations as the questions are worth by the jackknife. The axis is logarithmic; what is below 10⁻⁵
stands in the first bin. The dashed line is the paper's 0.1, at and below which a question or a pair counts as
answer-independent. The grey line and band are the noise floor, the same answer in other letter case or with a full
stop (surface-form variants): divergences no larger than that are no reaction to what the answer says. The dotted
line is the numerical floor, the same text read twice; where it lies below the axis it is not drawn. The outlined
bars are the positive control, the same answer with a hint in the prompt that it is wrong; where they are no further
right, the confidence may be frozen altogether. Below: medians with 95 % intervals.
Two wrong answers as far apart as right and wrong mean reaction without knowledge."""


def figure_2(run: RunData) -> Page:
    """Figure 2."""
    data = divergences(run)
    kinds = list(data.spreads) or ["jsd"]
    rows = -(-len(kinds) // 2)
    figure = Figure((DOUBLE, 1.45 * rows + 2.2), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.45 * rows, 1.8))[:, 0]
    grid = above.add_gridspec(rows, 2)
    for number, kind in enumerate(kinds):
        ax = draw_divergence(data, above.add_subplot(grid[divmod(number, 2)]), kind)
        ax.set_title(f"{chr(97 + number)}  {_share(data.spreads.get(kind), kind)}", fontsize=7)
    draw_comparisons(data, below.subplots()).set_title(f"{chr(97 + len(kinds))}  medians", fontsize=7)
    figure.legend(handles=_legend(data), loc="outside upper left", ncols=4, columnspacing=1.4)
    numbers = {}
    for kind, spread in data.spreads.items():
        counted = "pairs" if kind == "pairs" else "questions"
        numbers[f"share of {counted} at most 0.1, {KINDS[kind][1]}"] = in_words(spread.near_zero, percent)
        numbers[f"{counted} drawn, and of them in the first bin, {KINDS[kind][1]}"] = (
            f"{sum(spread.counts)}, {spread.below}"
        )
    numbers |= {f"median JSD, {COMPARISONS[name][1]}": in_words(median) for name, median in data.medians.items()}
    if data.numerical:
        numbers["numerical floor, median JSD of the same text read twice"] = in_words(data.numerical)
    if "jsd" not in data.spreads:
        numbers = {f"median JSD, {COMPARISONS['jsd'][1]}": "no question has a sampled wrong answer", **numbers}
    return Page("figure_2_jsd", figure, caption(HOW_TO_READ, numbers, run.subject))


def _share(spread: Spread | None, kind: str) -> str:
    if spread is None or (value := spread.near_zero.value) is None:
        return f"{KINDS[kind][1]}: none"
    near = spread.near_zero
    counted = f"{sum(spread.counts)} pairs, n = {near.n}" if kind == "pairs" else f"n = {near.n}"
    return f"{KINDS[kind][1]}\n     {percent(value)} at most 0.1 {interval(near, percent)}, {counted}"


def _legend(data: Divergences) -> list[Artist]:
    colours = ROLE_COLOURS
    handles: list[Artist] = [
        Patch(fc="none", ec=colours["hint"], lw=1.1, label="hint that the answer is wrong"),
        Line2D([], [], color=colours["noise_floor"], lw=1.4, label="noise floor, median"),
        Line2D([], [], color=INK, ls="--", lw=0.9, label="0.1"),
    ]
    if _on_axis(data.numerical):
        handles.append(Line2D([], [], color=INK, ls=":", lw=1.1, label="numerical floor, median"))
    return handles


def _on_axis(floor: Estimate | None) -> bool:
    return floor is not None and floor.value is not None and floor.value > LEAST


def compared_divergences(before: RunData, after: RunData) -> tuple[Figure, str]:
    """Figure 2 of two runs, a row for each kind of comparison that both have; and how to read it."""
    sides = [divergences(run) for run in (before, after)]
    kinds = [kind for kind in sides[0].spreads if kind in sides[1].spreads] or ["jsd"]
    figure = Figure((DOUBLE, 0.7 + 1.05 * len(kinds)), layout=ConstrainedLayoutEngine(wspace=0.08))
    grid = figure.subplots(len(kinds), 2, sharex=True, sharey="row", squeeze=False)
    for row, (kind, axes) in enumerate(zip(kinds, grid, strict=True)):
        for number, (side, ax) in enumerate(zip(sides, axes, strict=True)):
            draw_divergence(side, ax, kind)
            ax.set_title(f"{chr(97 + 2 * row + number)}  {SIDE_TITLES[number]}: {KINDS[kind][1]}")
            ax.set(xlabel="JSD of the confidence (nats)" if row == len(kinds) - 1 else "")
        axes[1].set_ylabel("")
    how = "The divergence between the confidences after two answers, by where the wrong answer comes from: "
    return figure, how + HOW_TO_READ.partition("Above: ")[2].partition("Below: ")[0]
