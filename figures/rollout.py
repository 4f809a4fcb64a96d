"""Figure 3: from which spans attention rollout says that the confidence, and the answer, gather information.

It draws a run's records and estimates; rollout itself is computed by the instrument."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.captions import Page, RunData, caption, in_words
from figures.style import DOUBLE, ROLE_COLOURS, SPAN_COLOURS, drawn_sides, logarithmic
from interp.intervals import Estimate
from interp.measures import RolloutRecord
from interp.records import MASS_SPANS, MassSpan, Span
from interp.run.runs import means_by_question

FLOWS: tuple[tuple[str, Span], ...] = (
    ("confidence", "answer"),
    ("confidence", "question"),
    ("confidence", "special"),
    ("answer", "question"),
)
"""(where rollout is read, the span whose mass is taken): the pairs of the paper's Figure 3."""


@dataclass(frozen=True)
class Pair:
    """One reading of rollout beside its value under uniform attention, the null."""

    span: MassSpan
    """Where the mass lies."""
    rollout: Estimate
    """Mean over questions, in [0, 1]."""
    null: Estimate
    """The same under uniform attention, in a prompt of the same length and a model of the same depth; without a value
    for learned sinks, which uniform attention does not have."""


@dataclass(frozen=True)
class Rollout:
    """Attention rollout by span."""

    mass: tuple[Pair, ...]
    """Read at the confidence, summed over each span."""
    per_token: tuple[Pair, ...]
    """The same as a mean over the span's tokens."""
    without_first: tuple[Pair, ...]
    """The sums without the prompt's first token, renormalised over the rest."""
    flows: tuple[Pair, ...]
    """The masses of FLOWS, in that order, where the prompt has the span."""
    windows: dict[str, dict[MassSpan, float]]
    """Mean mass by span of the rollout through a window of layers alone, by first and last layer; each sums to 1."""
    layers: int
    """Depth of the model."""
    n: int
    """Questions."""


def rollouts(run: RunData) -> Rollout:
    """The figure's data."""
    records = run.of(RolloutRecord)
    measured = [span for span in MASS_SPANS if f"rollout.{span}.mass" in run.estimates]

    def pair(span: MassSpan, reading: str, null: str) -> Pair:
        return Pair(span, run.estimate(f"rollout.{reading}"), run.estimate(f"rollout.{null}"))

    return Rollout(
        mass=tuple(pair(span, f"{span}.mass", f"{span}.null") for span in measured),
        per_token=tuple(pair(span, f"{span}.per_token", f"{span}.per_token_null") for span in measured),
        without_first=tuple(pair(span, f"{span}.without_first", f"{span}.without_first_null") for span in measured),
        flows=tuple(
            pair(span, f"{_prefix(source)}{span}.mass", f"{_prefix(source)}{span}.null")
            for source, span in FLOWS
            if span in measured
        ),
        windows=_windows(records),
        layers=records[0].layers,
        n=len({record.id for record in records}),
    )


def _prefix(source: str) -> str:
    return "" if source == "confidence" else f"from_{source}."


def _windows(records: Sequence[RolloutRecord]) -> dict[str, dict[MassSpan, float]]:
    """For each window of layers the mean mass of each span, over questions."""
    masses: dict[str, dict[MassSpan, float]] = {}
    for window in records[0].windows:
        questions = list(means_by_question((record.id, record.windows[window]) for record in records).values())
        spans = [span for span in MASS_SPANS if span in questions[0]]
        masses[window] = {span: sum(by_span[span] for by_span in questions) / len(questions) for span in spans}
    return masses


def draw_pairs(pairs: Sequence[Pair], ax: Axes, labels: Mapping[int, str] | None = None) -> Axes:
    """One row for each pair on a logarithmic axis: a dot with its interval, and its null as a hollow diamond.

    Args:
        pairs: The readings; one that is 0 has no place on the axis and is not drawn.
        ax: Where they are drawn.
        labels: The label of a row by its number; by default its span.
    """
    for row, pair in enumerate(pairs):
        # the dot above the middle of the row, the diamond below it
        mass, null, colour = pair.rollout, pair.null, SPAN_COLOURS[pair.span]
        if null.value:
            ax.plot(null.value, row + 0.2, "D", mfc="white", mec=ROLE_COLOURS["null"], mew=0.8, ms=3.6)
        if mass.low and mass.high:
            ax.plot((mass.low, mass.high), (row - 0.12, row - 0.12), color=colour, lw=2, solid_capstyle="butt")
        if mass.value:
            ax.plot(mass.value, row - 0.12, "o", color=colour, mec="white", mew=0.5, ms=5)
    names = [(labels or {}).get(row, pair.span) for row, pair in enumerate(pairs)]
    ax.set_yticks(range(len(pairs)), names)
    ax.set(xscale="log", ylim=(len(pairs) - 0.5, -0.5))
    ax.grid(axis="x", color="#dddddd", lw=0.5)
    ax.tick_params(axis="y", length=0)
    logarithmic(ax.xaxis)
    return ax


def draw_windows(measurement: Rollout, ax: Axes) -> Axes:
    """The share of each span in the rollout through each window of layers, as stacked bars."""
    for row, by_span in enumerate(measurement.windows.values()):
        start = 0.0
        for span, value in by_span.items():
            ax.barh(row, value, left=start, height=0.7, color=SPAN_COLOURS[span], ec="white", lw=0.5)
            start += value
    ax.set_yticks(range(len(measurement.windows)), [f"layers {name.replace('-', '–')}" for name in measurement.windows])
    ax.set(xlim=(0, 1), ylim=(len(measurement.windows) - 0.5, -0.5), xlabel="rollout mass")
    ax.tick_params(axis="y", length=0)
    return ax


HOW_TO_READ = """\
Attention rollout (Abnar and Zuidema 2020): which share of what the model holds where the confidence is decided has
come, by attention alone, from each part of the prompt. Dots are means over questions, bars 95 % intervals (mostly
hidden by the dot). Hollow diamonds are the null: the same reading if every token attended equally to all tokens
before it. In a causal model mass gathers at the first tokens with depth, whatever the text says, so only a dot away
from its diamond says anything about content: to the right, more is gathered from there than by position alone. The
axes are logarithmic. (a) the mass summed over each span; (b) its mean per token, since spans differ in length; (c)
the sums with the prompt's first token, where attention sinks, left out; (d) the paper's comparison: the answer looks
back at the question, and does the confidence look back at the answer? (e) the reading through a window of layers
alone, where fewer layers mean less collapse. Rollout knows nothing of values and MLPs, and confidence may be gathered
first by the tokens between answer and confidence (the tail): it is no proof of independence."""
SINKS = """
This model's layers have learned sinks, which are no tokens of the prompt: what attention gives them is lost to the
tokens (sink). Uniform attention knows none."""


def figure_3(run: RunData) -> Page:
    """Figure 3."""
    data = rollouts(run)
    figure = Figure((DOUBLE, 3.9), layout="constrained")
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.3, 1))
    a, b, c = above.subplots(1, 3, sharey=True)
    d, e = below.subplots(1, 2)
    draw_pairs(data.mass, a).set(title="a  mass", xlabel="rollout mass")
    draw_pairs(data.per_token, b).set(title="b  per token", xlabel="mean mass per token")
    draw_pairs(data.without_first, c).set(title="c  without the first token", xlabel="share of the rest")
    flows = {row: f"{source} to {span}" for row, (source, span) in enumerate(_shown_flows(data))}
    draw_pairs(data.flows, d, flows).set(title="d  who looks back at whom", xlabel="rollout mass")
    draw_windows(data, e).set_title("e  by windows of layers")
    above.legend(handles=_legend(data), loc="outside upper left", ncols=8, columnspacing=1.2, handletextpad=0.4)
    how = HOW_TO_READ + (SINKS if any(pair.span == "sink" for pair in data.mass) else "")
    return Page("figure_3_rollout", figure, caption(how, _numbers(data), run.subject))


def _shown_flows(data: Rollout) -> list[tuple[str, Span]]:
    spans = {pair.span for pair in data.mass}
    return [flow for flow in FLOWS if flow[1] in spans]


def _legend(data: Rollout) -> list[Line2D]:
    spans = [
        Line2D([], [], marker="o", ls="", color=SPAN_COLOURS[pair.span], label=pair.span, ms=5) for pair in data.mass
    ]
    null = Line2D([], [], marker="D", ls="", mfc="white", mec=ROLE_COLOURS["null"], label="uniform attention", ms=3.8)
    return [*spans, null]


def _numbers(data: Rollout) -> dict[str, str]:
    flows = zip(_shown_flows(data), data.flows, strict=True)
    numbers = {f"{source} to {span}": _beside_null(pair) for (source, span), pair in flows}
    numbers |= {f"confidence to {p.span}": in_words(p.rollout) for p in data.mass if p.span == "sink"}
    readings = {"per token": data.per_token, "first token left out": data.without_first}
    numbers |= {
        f"confidence to {pair.span}, {words}": _beside_null(pair)
        for words, pairs in readings.items()
        for pair in pairs
        if pair.span != "sink"
    }
    return numbers | {"layers": str(data.layers), "questions": str(data.n)}


def _beside_null(pair: Pair) -> str:
    return f"{in_words(pair.rollout)}; uniform attention {in_words(pair.null)}"


def compared_masses(before: RunData, after: RunData) -> tuple[Figure, str]:
    """The masses of both runs beside their nulls, and how to read them."""
    sides = [rollouts(run).mass for run in (before, after)]
    figure = drawn_sides(lambda i, ax: draw_pairs(sides[i], ax).set(xlabel="rollout mass"), 2.0)
    return figure, (
        "Attention rollout read at the confidence, by span (dots), beside uniform attention (diamonds). Attention "
        "alone: a dependence that training built in values and MLPs does not show here."
    )
