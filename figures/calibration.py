"""Figures 1 and 5: the confidence of right and wrong answers, reliability, risk, and what calibration costs.

Tables and figures come from the summary and records of `interp.evaluate`; no calibration measure is computed here."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures.captions import Page, digits, percent, written_caption
from figures.grid import Column, Grid
from figures.style import DOUBLE, INK, RIGHT, WRONG, nth_style, printable
from interp.calibration import MEASURES, OF_A_RELATION, risk_by_coverage
from interp.formats import FORMATS
from interp.intervals import LEVEL, Estimate, of_record
from interp.methods.registry import scores
from interp.run.runs import Record

COLUMNS = (
    *(
        column
        for key, measure in MEASURES.items()
        if measure.place != "kept"
        for column in (
            Column(key, measure.title),
            *((Column(f"{key}.null", f"{measure.title} if calibrated"),) if measure.null else ()),
        )
    ),
    Column("outside", "off-scale mass"),
    Column("tokens", "tokens", 1.0),
    Column("prompt_tokens", "tokens read", 1.0, 0),
    Column("seconds", "seconds", 1.0, 2),
)
SHORT = (*(key for key, measure in MEASURES.items() if measure.place == "headline"), "ece.null", "outside")
"""The columns that the terminal shows; the files have all."""
LABELS = ("checkpoint", "data", "method", "format", "n", "unparsed")


def method_words(key: str) -> str:
    """A row of the table in plain words; its key where no method that is installed has it."""
    return scores()[key][1].words if key in scores() else key


def _method_style(key: str) -> tuple[str, str]:
    known = list(scores())
    return nth_style(known.index(key)) if key in known else (INK, "o")


def cells(summary: Record, part: str = "calibration") -> Iterator[tuple[tuple[str, str, str, str], Record]]:
    """Every cell of a run's table.

    Args:
        summary: The run's summary.
        part: `calibration`, `differences` between checkpoints, or `by_relation`, whose numbers stand by relation.

    Yields:
        ((checkpoint, data, method, format), numbers).
    """
    for checkpoint, by_data in summary[part].items():
        for data, by_method in by_data.items():
            for method, by_format in by_method.items():
                for form, numbers in by_format.items():
                    yield (checkpoint, data, method, form), numbers


def grid(summary: Record, keys: Sequence[str] | None = None, *, worst: bool = False) -> Grid:
    """The run's table.

    Args:
        summary: The run's summary.
        keys: The columns, by their keys in the summary; by default all.
        worst: Whether unparsed replies count as wrong answers of the highest confidence.
    """
    columns = tuple(column for column in COLUMNS if keys is None or column.key in keys)
    rows = []
    for (checkpoint, data, method, form), numbers in cells(summary):
        shown = numbers["worst"] if worst else numbers
        estimates = (_number(c.key, shown, numbers) for c in columns)
        names = (checkpoint, data, method_words(method), form, str(shown["n"]), str(numbers["unparsed"]))
        rows.append((names, tuple(estimates)))
    return Grid(LABELS, columns, tuple(rows))


def _number(key: str, shown: Record, numbers: Record) -> Estimate:
    """A cell's number, or, for a key that ends with ".null", what a calibrated speaker of its confidences shows.

    shown, numbers: the cell's numbers under the rule that is shown, and under the usual one."""
    key, dot, _ = key.partition(".")
    estimate = of_record(shown.get(key) or numbers.get(key) or _NOTHING)
    if not dot:
        return estimate
    null = estimate.null
    return Estimate(null.value, null.low, null.high, estimate.n) if null else of_record(_NOTHING)


SPREADS = {"shot_sets": ("sets", "sets of worked examples"), "wordings": ("wordings", "wordings of the instruction")}
"""What a run is repeated over, by its key in a cell: the heading of their number, and their name in a title."""


def spreads(summary: Record) -> list[str]:
    """What the run is repeated over, by the keys of `SPREADS`."""
    return [source for source in SPREADS if any(source in numbers for _, numbers in cells(summary))]


def spread(summary: Record, source: str, keys: Sequence[str] | None = None) -> Grid:
    """The mean over sets of worked examples, or over wordings, with the least and the largest value in brackets.

    Args:
        summary: The run's summary.
        source: A key of `SPREADS`.
        keys: The columns, by their keys in the summary; by default all measures.
    """
    columns = tuple(c for c in COLUMNS if c.key in MEASURES and (keys is None or c.key in keys))
    rows = []
    for (checkpoint, data, method, form), numbers in cells(summary):
        if source not in numbers:
            continue
        estimates = []
        for column in columns:
            values = [v for v in numbers[source][column.key] if v is not None]
            estimates.append(
                Estimate(sum(values) / len(values), min(values), max(values), len(values))
                if values
                else of_record(_NOTHING)
            )
        count = str(len(numbers[source]["accuracy"]))
        rows.append(((checkpoint, data, method_words(method), form, count), tuple(estimates)))
    return Grid((*LABELS[:4], SPREADS[source][0]), columns, tuple(rows))


def differences(summary: Record, keys: Sequence[str] | None = None) -> Grid:
    """What each later checkpoint changes against the first, on the same questions."""
    columns = tuple(c for c in COLUMNS if c.key in MEASURES and (keys is None or c.key in keys))
    rows = []
    for (pair, data, method, form), numbers in cells(summary, "differences"):
        estimates = tuple(of_record(numbers[column.key]) for column in columns)
        rows.append(((pair, data, method_words(method), form, str(estimates[0].n)), estimates))
    return Grid(("difference", *LABELS[1:5]), columns, tuple(rows))


def relations(summary: Record) -> Grid:
    """The main measures of each relation or subject by itself; no rows where no data set has several large ones."""
    columns = tuple(column for column in COLUMNS if column.key in OF_A_RELATION)
    rows = []
    # a run of an earlier version has none
    for (checkpoint, data, method, form), by_relation in cells({"by_relation": {}} | summary, "by_relation"):
        for relation, numbers in by_relation.items():
            names = (checkpoint, data, method_words(method), form, relation, str(numbers["accuracy"]["n"]))
            rows.append((names, tuple(of_record(numbers[column.key]) for column in columns)))
    return Grid((*LABELS[:4], "relation", "n"), columns, tuple(rows))


_NOTHING: Record = {"value": None, "low": None, "high": None, "n": 0, "left_out": 0}


@dataclass(frozen=True)
class Level:
    """How many answers were given at one confidence level."""

    value: float
    """Its value in [0, 1]."""
    right: int
    """Right answers at this level."""
    wrong: int
    """Wrong answers at this level."""


@dataclass(frozen=True)
class Reliability:
    """Stated confidence against outcome, level by level, of one checkpoint, data set and format."""

    data: str
    """The data set."""
    format: str
    """The format."""
    levels: tuple[Level, ...]
    """The levels that were stated, in rising order."""
    values: tuple[float, ...]
    """The values of all levels of the format."""

    @property
    def count(self) -> int:
        """How many answers there are."""
        return sum(level.right + level.wrong for level in self.levels)


def reliabilities(records: Sequence[Record], checkpoint: str) -> list[Reliability]:
    """The stated confidences of the method Default, from a run's records.

    Only the first set of worked examples and wording is counted, and no reply that states no level.

    Args:
        records: The run's records; their measures read `checkpoint|data|format|answer` and `...|read`.
        checkpoint: The checkpoint's name.

    Returns:
        One for each data set and format, in the order of the records.
    """
    measured = []
    for (data, form), pairs in stated_levels(records, checkpoint).items():
        counts: dict[int, list[int]] = {}  # by level: right and wrong answers
        for level, right in pairs:
            counts.setdefault(level, [0, 0])[0 if right else 1] += 1
        values = FORMATS[form].values
        levels = tuple(Level(values[index], *counts[index]) for index in sorted(counts))
        measured.append(Reliability(data, form, levels, values))
    return measured


def stated_levels(records: Sequence[Record], checkpoint: str) -> dict[tuple[str, str], list[tuple[int, bool]]]:
    """By data set and format, the index of the level that is stated with each answer, and whether that is right.

    Only the first set of worked examples and wording is counted, and no reply that states no level."""
    by_measure: dict[str, list[Record]] = {}
    for record in records:
        by_measure.setdefault(record["measure"], []).append(record)
    stated: dict[tuple[str, str], list[tuple[int, bool]]] = {}
    for measure, replies in by_measure.items():
        if not (measure.startswith(f"{checkpoint}|") and measure.endswith("|read")):
            continue
        data, form, _ = measure.removeprefix(f"{checkpoint}|").rsplit("|", 2)  # either name may hold a bar itself
        right = {r["id"]: r["right"] for r in by_measure[f"{checkpoint}|{data}|{form}|answer"] if not r["set"]}
        first = [reply for reply in replies if reply["stated"] is not None and not reply["set"]]
        stated[data, form] = [(reply["stated"], right[reply["id"]]) for reply in first]
    return stated


@dataclass(frozen=True)
class Risks:
    """The error rate among the most confident answers, of one checkpoint, data set and format."""

    coverage: np.ndarray
    """The share of answers that are kept, [counts], in (0, 1]."""
    risk: np.ndarray
    """The error rate among them, [counts]."""
    low: np.ndarray
    """Lower end of the band that holds 95 % of resamples of the questions, [counts]."""
    high: np.ndarray
    """Upper end of the band, [counts]."""


def risks_of(pairs: Sequence[tuple[int, bool]]) -> Risks | None:
    """The error rate by coverage, from `LEAST_COVERED` answers on; None where there are not so many.

    Args:
        pairs: The index of each stated level, and whether its answer is right.
    """
    count = len(pairs)
    if count < LEAST_COVERED:
        return None
    level, right = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], dtype=bool)
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    kept = slice(LEAST_COVERED - 1, None)
    low, high = np.quantile(risk_by_coverage(level[drawn], right[drawn]), (1 - LEVEL, LEVEL), axis=0)
    risk = risk_by_coverage(level, right)[0]
    return Risks(np.arange(1, count + 1)[kept] / count, risk[kept], low[kept], high[kept])


def draw_confidence(measurement: Reliability, ax: Axes) -> Axes:
    """The share of right answers at each level drawn upwards, of wrong ones downwards, and both means."""
    rights, wrongs = (sum(getattr(level, kind) for level in measurement.levels) for kind in ("right", "wrong"))
    width = 0.8 * np.diff(measurement.values).min() if len(measurement.values) <= 11 else 0.04
    for kind, total, sign, colour in (("right", rights, 1, RIGHT), ("wrong", wrongs, -1, WRONG)):
        if not total:
            continue
        # [levels that were stated] each: share of the right (or wrong) answers, and the level's value
        sizes = np.array([getattr(level, kind) for level in measurement.levels]) / total
        places = np.array([level.value for level in measurement.levels])
        ax.bar(places, sign * sizes, width, color=colour, ec="white", lw=0.4)
        mean = float(sizes @ places)
        ax.plot((mean, mean), (0, sign * 1.02), color=colour, lw=1, ls=(0, (2, 1)))
    ax.axhline(0, color=INK, lw=0.6)
    ax.set(xlim=(-0.07, 1.07), ylim=(-1.05, 1.05))
    ax.set_yticks((-1, 0, 1), ("1", "0", "1"))
    ax.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    return ax


def draw_reliability(measurement: Reliability, ax: Axes) -> Axes:
    """Accuracy at each level with a band for chance, the area of a dot as the level's share of answers."""
    from scipy.stats import binom

    ax.plot((0, 1), (0, 1), color=INK, lw=0.6, ls="--")
    for level in measurement.levels:
        count = level.right + level.wrong
        # at 0 and 1 the band is a point: a level that means what it says leaves nothing to chance there
        low, high = binom.interval(0.95, count, level.value) if 0 < level.value < 1 else (level.value * count,) * 2
        ax.plot((level.value,) * 2, (low / count, high / count), color="#bbbbbb", lw=3, solid_capstyle="butt", zorder=1)
    places = [level.value for level in measurement.levels]
    accuracy = [level.right / (level.right + level.wrong) for level in measurement.levels]
    sizes = [4 + 120 * (level.right + level.wrong) / measurement.count for level in measurement.levels]
    ax.scatter(places, accuracy, sizes, color=_method_style("default")[0], ec="white", lw=0.4, zorder=3)
    ax.set(xlim=(-0.07, 1.07), ylim=(-0.07, 1.07))
    ax.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    ax.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
    return ax


@dataclass(frozen=True)
class Cost:
    """One method's calibration error and what it costs."""

    method: str
    """The method's key."""
    error: Estimate
    """Its calibration error."""
    tokens: float
    """Tokens that the model writes per question."""


def draw_costs(costs: Sequence[Cost], ax: Axes) -> Axes:
    """Calibration error (per cent) against tokens written per question; lower left is better."""
    step = 0.012 * max(cost.tokens for cost in costs)
    for number, cost in enumerate(costs):
        across = cost.tokens + step * (
            number % 3 - 1
        )  # so that marks of methods at the same cost do not hide each other
        colour, marker = _method_style(cost.method)
        if cost.error.low is not None and cost.error.high is not None:
            ax.plot((across,) * 2, (100 * cost.error.low, 100 * cost.error.high), color=colour, lw=1)
        if cost.error.value is not None:
            ax.plot(across, 100 * cost.error.value, marker, color=colour, ms=4.5, mec="white", mew=0.5)
    ax.set(xlim=(0, None), ylim=(0, None))
    return ax


FIGURE_1 = """\
For each data set (rows) and format (columns): upwards, how the stated confidences of right answers are spread over the
levels; downwards, those of wrong answers; each side sums to 1. Dotted lines are the means. A model that knows what it
knows has its upper bars to the right of the lower ones; one whose confidence does not depend on its answer has the
same picture twice."""
FIGURE_5 = """\
For each data set (rows) and format (columns): the accuracy of the answers given at each level, at the level's value.
The area of a dot is the share of answers at that level, so look at the large ones. Grey bars: where 95 of 100 dots
would lie if the level meant what it says, given how many answers it has. Below the diagonal: overconfident. Levels,
not bins: nothing here depends on a choice of bins."""
TITLES = {
    "figure_1_confidence": "Confidence of right and of wrong answers",
    "figure_5_reliability": "Reliability: accuracy at each stated level",
    "risk_coverage": "Risk and coverage",
    "ece_tokens": "Calibration error and tokens written",
}
"""The headings of the figures in a page, by what their names begin with."""
OF_A_CHECKPOINT = ("figure_1_confidence", "figure_5_reliability")
"""The figures that there are one of for each checkpoint."""
LEAST_COVERED = 10
"""The fewest answers whose error rate is drawn."""
RESAMPLES = 400
"""How often questions are drawn again for a band."""
RISK = """\
For each data set and format: the error rate among the answers with the highest stated confidence, against the share of
answers that is kept, a line for each checkpoint; from ten answers on. A confidence that ranks its answers rises from
the lower left; one that does not is flat, at the error rate of all answers. Answers at one level stand in no order, so
lines between levels are expectations. Bands hold 95 % of 400 resamples of the questions at each share."""
COSTS = """\
Expected calibration error, with 95 % intervals for these relations, against the tokens that the model writes for a
question, answer and confidence together. Lower left is better. Marks at one cost are set a little apart. A stated
confidence is worth its tokens where it lies below the yardsticks that need none (sequence probability, question only),
or ranks answers better than they do (AUROC, in the table)."""


def pages(records: Sequence[Record], summary: Record) -> Iterator[Page]:
    """Figures 1 and 5 for each checkpoint, the error rate by coverage of all, and calibration error against tokens
    where several methods were run."""
    checkpoints = [name for name in summary["calibration"] if name in summary["models"]]
    for checkpoint, suffix in zip(checkpoints, suffixes(checkpoints), strict=True):
        measured = reliabilities(records, checkpoint)
        if measured:
            for name, draw, words, up in (
                ("figure_1_confidence", draw_confidence, FIGURE_1, "share of answers"),
                ("figure_5_reliability", draw_reliability, FIGURE_5, "accuracy"),
            ):
                figure = _panels(measured, draw, up)
                if draw is draw_confidence:
                    handles = [Patch(color=RIGHT, label="right answers"), Patch(color=WRONG, label="wrong answers")]
                    figure.legend(handles=handles, loc="outside upper left", ncols=2)
                yield Page(name + suffix, figure, _caption(words, summary, checkpoint, ("default",)))
    for page in (_risk_page(records, summary, checkpoints), _costs_page(summary)):
        if page:
            yield page


def suffixes(checkpoints: Sequence[str]) -> list[str]:
    """What the names of each checkpoint's figures end with; empty for a single one."""
    if len(checkpoints) == 1:
        return [""]
    stems = [re.sub(r"[^\w.-]+", "-", checkpoint)[:100] for checkpoint in checkpoints]
    return [f"_{stem}" + (f"_{n}" if stems.count(stem) > 1 else "") for n, stem in enumerate(stems, 1)]


def _panels(measured: Sequence[Reliability], draw: Callable[[Reliability, Axes], Axes], up: str) -> Figure:
    data = list(dict.fromkeys(reliability.data for reliability in measured))
    forms = list(dict.fromkeys(reliability.format for reliability in measured))
    height = 0.55 + (0.95 if draw is draw_confidence else 1.25) * len(data)
    width = DOUBLE if len(forms) > 2 else min(DOUBLE, 0.8 + 2.0 * len(forms))
    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots(len(data), len(forms), squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat:
        ax.set_visible(False)
    for reliability in measured:
        ax = axes[data.index(reliability.data)][forms.index(reliability.format)]
        ax.set_visible(True)
        draw(reliability, ax)
        ax.set_title(
            f"{printable(reliability.data)}, {reliability.format}" if len(forms) < 4 else reliability.format,
            fontsize=6.5,
        )
        if ax in axes[:, 0]:
            ax.set_ylabel(printable(reliability.data) if len(forms) >= 4 else "")
    figure.supxlabel("stated confidence", fontsize=7)
    figure.supylabel(up, fontsize=7)
    return figure


def _risk_page(records: Sequence[Record], summary: Record, checkpoints: Sequence[str]) -> Page | None:
    """Error rate by coverage, a panel for each data set and format; None where too few answers state a level."""
    panels: dict[tuple[str, str], dict[int, Risks]] = {}
    for number, checkpoint in enumerate(checkpoints):
        for setting, pairs in stated_levels(records, checkpoint).items():
            if risks := risks_of(pairs):
                panels.setdefault(setting, {})[number] = risks
    if not panels:
        return None
    figure, axes = _grid_of(len(panels))
    for ax, (setting, lines) in zip(axes.flat, panels.items(), strict=False):
        for number, risks in lines.items():
            draw_risks(risks, number, ax)
        ax.set_title(printable(", ".join(setting)), fontsize=6.5)
        ax.set(xlim=(0, 1), ylim=(0, None))
    figure.supxlabel("share of answers that is kept", fontsize=7)
    figure.supylabel("error rate among them", fontsize=7)
    if len(checkpoints) > 1:
        handles = [Line2D([], [], color=nth_style(n)[0], label=printable(name)) for n, name in enumerate(checkpoints)]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.2)
    return Page("risk_coverage", figure, _caption(RISK, summary, None, ("default",)))


def draw_risks(risks: Risks, number: int, ax: Axes) -> Axes:
    """One checkpoint's line and band. number: that of the checkpoint, by which a page switches it on and off."""
    colour = nth_style(number)[0]
    ax.plot(risks.coverage, risks.risk, color=colour, gid=f"series-{number}")
    ax.fill_between(risks.coverage, risks.low, risks.high, color=colour, alpha=0.15, lw=0, gid=f"series-{number}")
    return ax


def _grid_of(panels: int) -> tuple[Figure, np.ndarray]:
    """A figure with so many axes, at most three beside each other; those that are too many are hidden."""
    wide = min(3, panels)
    high = -(-panels // wide)
    figure = Figure((DOUBLE, 0.7 + 1.9 * high), layout="constrained")
    axes: np.ndarray = figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[panels:]:
        ax.set_visible(False)
    return figure, axes


def _costs_page(summary: Record) -> Page | None:
    panels: dict[tuple[str, ...], list[Cost]] = {}
    for (checkpoint, data, method, form), numbers in cells(summary):
        if numbers["ece"]["value"] is not None and numbers.get("tokens", _NOTHING)["value"] is not None:
            cost = Cost(method, of_record(numbers["ece"]), numbers["tokens"]["value"])
            names = () if len(summary["models"]) == 1 else (checkpoint,)
            title = (*names, f"{data}, {form}")
            panels.setdefault(title, []).append(cost)
    panels = {title: costs for title, costs in panels.items() if len({cost.method for cost in costs}) > 2}
    if not panels:
        return None
    figure, axes = _grid_of(len(panels))
    for ax, (title, costs) in zip(axes.flat, panels.items(), strict=False):
        draw_costs(costs, ax)
        ax.set_title("\n".join(map(printable, title)), fontsize=6.5)
    figure.supxlabel("tokens written per question", fontsize=7)
    figure.supylabel("ECE (%)", fontsize=7)
    drawn = dict.fromkeys(cost.method for costs in panels.values() for cost in costs)
    methods = sorted(drawn, key=lambda method: ([*scores(), *drawn]).index(method))
    figure.legend(handles=[_mark(m) for m in methods], loc="outside upper left", ncols=4, columnspacing=1.2)
    return Page("ece_tokens", figure, _caption(COSTS, summary, None, None))


def _mark(method: str) -> Line2D:
    colour, marker = _method_style(method)
    return Line2D(
        [], [], marker=marker, color=colour, label=method_words(method), ls="none", mec="white", mew=0.5, ms=5
    )


def _caption(words: str, summary: Record, checkpoint: str | None, methods: Sequence[str] | None) -> str:
    numbers = {}
    for (name, data, method, form), cell in cells(summary):
        if (checkpoint is None or name == checkpoint) and (methods is None or method in methods):
            label = f"{name}, {data}, {method_words(method)}, {form}"
            shown = [f"{MEASURES[key].title} {_in_per_cent(cell[key])}" for key in ("accuracy", "ece", "auroc")]
            numbers[label] = f"{', '.join(shown)}, n = {cell['n']}, {cell['unparsed']} unparsed"
    return written_caption(words, numbers, subject(summary))


def _in_per_cent(number: Record) -> str:
    estimate = of_record(number)
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "none" if estimate.value is None else f"{100 * estimate.value:.1f}"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def subject(summary: Record) -> str:
    """Whose numbers they are, by which rule and in which unit, in a sentence each."""
    models = models_in_words(summary)
    opening = f"Models: {models}. " if models else ""
    return f"{opening}{how_to_read(summary)}"


def how_to_read(summary: Record) -> str:
    """By which rule and in which unit the numbers are, and their numerical floor."""
    ends = "Intervals: 95 %, for these relations; in braces for relations like these; if calibrated: a band of 95 %."
    rule = f"ECE by the rule {summary['rule']}. {ends}"
    return f"{rule} In per cent, but for counts, tokens and seconds.{_floor(summary)}"


def models_in_words(summary: Record) -> str:
    """The checkpoints with what there is to say of them, which is said once for all that have it in common."""
    alike: dict[str, list[str]] = {}
    for name, model in summary["models"].items():
        alike.setdefault(_about(model), []).append(name)
    groups = [(", ".join(names), about) for about, names in alike.items()]
    return "; ".join(f"{names} ({about})" if about else names for names, about in groups)


def _about(model: Record) -> str:
    precision = model.get("dtype", "").removeprefix("torch.")
    return ", ".join(filter(None, (model["note"], f"read in {precision}" if precision else "")))


def _floor(summary: Record) -> str:
    """The numerical floor in a sentence: the largest of all cells."""
    by_checkpoint = summary.get("numerical_floor", {})
    floors = [
        floor for by_data in by_checkpoint.values() for by_format in by_data.values() for floor in by_format.values()
    ]
    if not floors:
        return ""
    largest, changed = (
        max(floor[f"floor.{name}"]["value"] for floor in floors) for name in ("expected_largest", "stated")
    )
    return (
        f" Numerical floor: the same answer read twice differs by at most {digits(largest)} in expected confidence, "
        f"and {percent(changed)} of them in their likeliest level."
    )
