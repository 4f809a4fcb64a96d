"""Figure 2: how far the confidence moves when the right answer is replaced by a wrong one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures.captions import Page, Subject, caption, in_words, interval, percent
from figures.style import DOUBLE, INK, ROLE_COLOURS
from interp.diagnose import averaged
from interp.intervals import Estimate, estimated_columns
from interp.jsd import LIMIT, NEAR_ZERO, columns
from interp.runs import Record

LEAST = 1e-5
"""Smaller divergences are drawn in the first bin: on a logarithmic axis 0 has no place."""
EDGES = (*np.geomspace(LEAST, NEAR_ZERO, 17).tolist(), *np.geomspace(NEAR_ZERO, LIMIT, 5).tolist()[1:])
"""Bin edges in nats, each bin closed on the right, so that the paper's line, at most 0.1, is one."""
TICKS = (LEAST, 1e-4, 1e-3, 1e-2, NEAR_ZERO, LIMIT)
TICK_LABELS = ("≤10⁻⁵", "10⁻⁴", "10⁻³", "0.01", "0.1", "ln 2")

COMPARISONS = {
    "jsd": "right and wrong answer",
    "candidates": "all pairs of sampled answers",
    "wrong_wrong": "two wrong answers",
    "foil": "wrong answer of the same kind",
    "foreign": "answer to another question",
    "noise_floor": "same answer, other looks",
    "hint": "hint: the answer is wrong",
}
"""What is compared, by its name in the records."""


@dataclass(frozen=True)
class Divergences:
    """Per-question Jensen-Shannon divergences in nats, from 0 to ln 2."""

    counts: tuple[int, ...]
    """Questions in each bin of EDGES: right against wrong answer."""
    hint_counts: tuple[int, ...]
    """Questions in each bin of EDGES: without and with the hint that the answer is wrong."""
    near_zero: Estimate
    """Share of questions at most NEAR_ZERO, in [0, 1]."""
    medians: dict[str, Estimate]
    """The median of each comparison that has one, by its name in the records."""
    below: int
    """Questions below the axis, drawn in its first bin."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(EDGES) - 1 or sum(self.counts) != self.near_zero.n:
            raise ValueError(f"{sum(self.counts)} questions in {len(self.counts)} bins, {self.near_zero.n} measured")


def divergences(records: Sequence[Record]) -> Divergences:
    """The figure's data from a run's `jsd` records; a question without a value is counted, not binned."""
    questions = averaged(records)
    found = estimated_columns(columns(questions))
    medians = {"jsd": found["jsd.median"]} | {name: found[f"jsd.{name}"] for name in COMPARISONS if name != "jsd"}
    there = _there(questions, "jsd")
    return Divergences(
        counts=_binned(there),
        hint_counts=_binned(_there(questions, "hint")),
        near_zero=found["jsd.near_zero_share"],
        medians={name: estimate for name, estimate in medians.items() if estimate.value is not None},
        below=sum(value <= LEAST for value in there),
    )


def _there(questions: Sequence[Record], name: str) -> list[float]:
    return [q["values"][name] for q in questions if q["values"].get(name) is not None]


def _binned(values: Sequence[float]) -> tuple[int, ...]:
    bins = np.clip(np.searchsorted(EDGES, values, side="left"), 1, len(EDGES) - 1) - 1
    return tuple(np.bincount(bins, minlength=len(EDGES) - 1).tolist())


def draw_divergence(measurement: Divergences, ax: Axes) -> Axes:
    """The histogram: right against wrong answer filled, the hint outlined, the noise floor as a band."""
    colours = ROLE_COLOURS
    if (floor := measurement.medians.get("noise_floor")) and floor.value is not None:
        if floor.low is not None and floor.high is not None:
            ax.axvspan(max(floor.low, LEAST), max(floor.high, LEAST), color=colours["noise_floor"], alpha=0.3, lw=0)
        ax.axvline(max(floor.value, LEAST), color=colours["noise_floor"], lw=1.4)
    widths = np.diff(EDGES)
    ax.bar(EDGES[:-1], measurement.counts, widths, align="edge", color=colours["jsd"], ec="white")
    hinted = ax.bar(EDGES[:-1], measurement.hint_counts, widths, align="edge", fc="none", ec=colours["hint"], lw=1.1)
    for empty in (bar for bar, count in zip(hinted, measurement.hint_counts, strict=True) if not count):
        empty.set_visible(False)
    ax.axvline(NEAR_ZERO, color=INK, ls="--", lw=0.9)
    ax.set(xscale="log", xlim=(LEAST, LIMIT), xlabel="JSD of the confidence (nats)", ylabel="questions")
    ax.set_xticks(TICKS, TICK_LABELS)
    ax.set_xticks((), minor=True)
    ax.locator_params("y", integer=True)
    return ax


def draw_comparisons(measurement: Divergences, ax: Axes) -> Axes:
    """The median of each comparison with its interval, on the histogram's axis."""
    names = [name for name in COMPARISONS if name in measurement.medians]
    for row, name in enumerate(names):
        one, colour = measurement.medians[name], ROLE_COLOURS[name]
        if one.low is not None and one.high is not None:
            ax.plot((max(one.low, LEAST), max(one.high, LEAST)), (row, row), color=colour, lw=2, solid_capstyle="butt")
        if one.value is not None:
            ax.plot(max(one.value, LEAST), row, "o", color=colour, ms=4.5, mec="white", mew=0.5)
    ax.axvline(NEAR_ZERO, color=INK, ls="--", lw=0.9)
    ax.set(xscale="log", xlim=(LEAST, LIMIT), xlabel="median JSD (nats)", ylim=(max(len(names), 1) - 0.5, -0.5))
    ax.set_xticks(TICKS, TICK_LABELS)
    ax.set_xticks((), minor=True)
    ax.set_yticks(range(len(names)), [COMPARISONS[name] for name in names])
    ax.tick_params(axis="y", length=0)
    return ax


HOW_TO_READ = """\
Left: for each question, the Jensen-Shannon divergence between the confidence stated after the model's own right
answer and after a wrong one that it sampled; 0 means that the confidence does not react to the answer at all, ln 2 =
0.693 that the two share no level. The axis is logarithmic; what is below 10⁻⁵ stands in the first bin. The dashed
line is the paper's 0.1, at and below which a question counts as answer-independent. The grey line and band are the
noise floor, the same answer in other letter case or with a full stop: divergences no larger than that are no reaction
to what the answer says. The outlined bars are the positive control, the same answer with a hint in the prompt that it
is wrong; where they are no further right, the confidence may be frozen altogether. Right: medians with 95 %
intervals. Two wrong answers as far apart as right and wrong mean reaction without knowledge."""


def pages(records: Sequence[Record], subject: Subject) -> Iterator[Page]:
    """Figure 2, where the run has measured it."""
    measured = [record for record in records if record["measure"] == "jsd"]
    if not measured:
        return
    data = divergences(measured)
    figure = Figure((DOUBLE, 2.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    draw_divergence(data, left)
    draw_comparisons(data, right)
    left.set_title(f"a  {_share(data.near_zero)}")
    right.set_title("b  medians")
    figure.legend(handles=_legend(), loc="outside upper left", ncols=4, columnspacing=1.4)
    numbers = {"share of questions at most 0.1": in_words(data.near_zero, percent)}
    numbers |= {f"median JSD, {COMPARISONS[name]}": in_words(one) for name, one in data.medians.items()}
    numbers["drawn in the first bin, below 10⁻⁵"] = str(data.below)
    yield Page("figure_2_jsd", figure, caption(HOW_TO_READ, numbers, subject))


def _share(near_zero: Estimate) -> str:
    if near_zero.value is None:
        return "no question has a wrong answer"
    return f"{percent(near_zero.value)} at most 0.1 {interval(near_zero, percent)}, n = {near_zero.n}"


def _legend() -> list[Artist]:
    colours = ROLE_COLOURS
    return [
        Patch(fc=colours["jsd"], label="right and wrong answer"),
        Patch(fc="none", ec=colours["hint"], lw=1.1, label="hint that the answer is wrong"),
        Line2D([], [], color=colours["noise_floor"], lw=1.4, label="noise floor, median"),
        Line2D([], [], color=INK, ls="--", lw=0.9, label="0.1"),
    ]
