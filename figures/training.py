"""The course of a training: the learning curve of answer-dependence, and the ablation of the objective's terms.

Everything is drawn from the summaries of finished runs; this module does not import `training`."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.captions import Page, in_words, written_caption
from figures.grid import Column, Grid
from figures.style import DOUBLE, INK, RIGHT, ROLE_COLOURS, SPAN_COLOURS, WRONG, printable
from interp.calibration import MEASURES
from interp.intervals import Estimate, of_record
from interp.pipelines.evaluation import APART, SHARED
from interp.run.runs import Record, read_run

PANELS: dict[str, dict[str, str]] = {
    "confidence": {"right": RIGHT, "wrong": WRONG},
    "share of pairs": {"direction_positive": SPAN_COLOURS["tail"], "near_zero_share": ROLE_COLOURS["null"]},
    "median JSD": {"jsd": ROLE_COLOURS["jsd"], "wrong_wrong": ROLE_COLOURS["wrong_wrong"]},
    "tokenized Brier": {"tokenized_brier": INK},
    "AUROC, ECE": {"auroc": SPAN_COLOURS["tail"], "ece": SPAN_COLOURS["answer"]},
    "cross-entropy": {"cross_entropy": INK},
    "off target": {"off_target": INK},
    "outside levels": {"outside": INK},
    "median rank": {"answer_rank": SPAN_COLOURS["answer"]},
}
"""The panels of the curve, with the colour of each line; a panel is left out where the run lacks one of its lines."""
NAMES = {
    "right": "right",
    "wrong": "wrong",
    "direction_positive": "right higher",
    "near_zero_share": "JSD ≤ 0.1",
    "jsd": "right, wrong",
    "wrong_wrong": "two wrong",
    "tokenized_brier": "tokenized Brier",
    "auroc": "AUROC",
    "ece": "ECE",
    "answer_rank": "answer",
    "cross_entropy": "cross-entropy",
    "off_target": "off target",
    "outside": "mean",
}
PANEL_WORDS = {
    "confidence": "expected confidence after right and wrong answers",
    "share of pairs": "the share of pairs in which it is higher after the right one, and in which JSD is at most 0.1",
    "median JSD": "the JSD (nats) of the confidences after right and wrong answer, and after two wrong ones",
    "tokenized Brier": "the tokenized Brier score",
    "AUROC, ECE": "AUROC and ECE",
    "cross-entropy": "the cross-entropy (nats) of the levels that are trained",
    "off target": "how far the expected confidence lies from their values",
    "outside levels": "the probability outside the levels",
    "median rank": "the attribution rank of the answer's best token",
}
"""What each panel shows."""
CURVE = """\
Held-out questions, measured before the first update and every so many, a row for each format: {panels}. Lines are means
or medians, bands 95 % intervals over questions."""
LOOKING = """\
A confidence that learns to look at its answer parts the two lines of the first panel; divergence without direction is
a reaction to any answer, not knowledge."""
ABLATION = """\
Each row is ADVICE with the terms that it names, trained on the same mini-batches. Dots are the measures on questions
that training did not see, bars 95 % intervals over questions; the dashed line is the model before training."""
COLUMNS = tuple(Column(key, measure.title) for key, measure in MEASURES.items() if measure.place == "headline")
DRAWN = ("ece", "brier", "auroc")
BETTER = ("ece", "nce_abs", "brier", "auroc")
"""The measures by which two methods are compared: less is better, except for AUROC."""


def draw_curve(points: Sequence[Record], form: str, lines: dict[str, str], ax: Axes) -> Axes:
    """One line with its band for each name, over updates.

    Args:
        points: The run's `curve` in summary.json.
        form: Name of the format that is drawn.
        lines: The colour of each line, by the name of its numbers in a point.
        ax: Where they are drawn.
    """
    for name, colour in lines.items():
        estimates = [(point["update"], of_record(point["formats"][form][name])) for point in points]
        line = [(update, estimate.value) for update, estimate in estimates if estimate.value is not None]
        ax.plot([update for update, _ in line], [value for _, value in line], color=colour, label=NAMES[name])
        if band := [
            (update, estimate.low, estimate.high) for update, estimate in estimates if estimate.low is not None
        ]:
            updates, low, high = zip(*band, strict=True)
            ax.fill_between(updates, low, high, color=colour, alpha=0.18, lw=0)
    ax.locator_params("x", integer=True)
    return ax


def curve_page(training: Record, sentence: str) -> Page:
    """The learning curve of a run, a row of panels for each format."""
    points = training["curve"]
    formats = points[0]["formats"]
    panels = {title: lines for title, lines in PANELS.items() if set(lines) <= set(next(iter(formats.values())))}
    figure = Figure((DOUBLE, 0.5 + 1.4 * len(formats)), layout="constrained")
    grid = figure.subplots(len(formats), len(panels), squeeze=False, sharex=True, sharey="col")
    for number, (form, row) in enumerate(zip(formats, grid, strict=True)):
        for ax, (title, lines) in zip(row, panels.items(), strict=True):
            draw_curve(points, form, lines, ax)
            if number == 0:
                ax.set_title(title)
                if len(lines) > 1:
                    ax.legend(loc="lower left", bbox_to_anchor=(-0.1, -0.35), handlelength=1, borderaxespad=0)
            if number == len(formats) - 1:
                ax.set_xlabel("update")
        row[0].set_ylabel(form)
    numbers = {
        f"{form}, {title}, {NAMES[name]}, update {point['update']}": in_words(of_record(point["formats"][form][name]))
        for form in formats
        for title, lines in panels.items()
        for name in lines
        for point in (points[0], points[-1])
    }
    how = CURVE.format(panels="; ".join(PANEL_WORDS[title] for title in panels))
    how += f" {LOOKING}" if {"confidence", "median JSD"} <= panels.keys() else ""
    return Page("learning_curve", figure, written_caption(how, numbers, sentence))


def ablation_grid(summary: Record) -> Grid:
    """Calibration of every row by data and format, beside the model before training."""
    rows = []
    for checkpoint, by_data in summary["calibration"].items():
        for data, by_method in by_data.items():
            for form, numbers in by_method["default"].items():
                cells = tuple(of_record(numbers[column.key]) for column in COLUMNS)
                rows.append(((checkpoint, data, form), cells))
    return Grid(("row", "data", "format"), COLUMNS, tuple(rows))


def ablation_page(summary: Record) -> Page:
    """ECE, Brier and AUROC of every row; one colour for each data set and format."""
    grid = ablation_grid(summary)
    settings = list(dict.fromkeys(names[1:] for names, _ in grid.rows))
    checkpoints = list(dict.fromkeys(names[0] for names, _ in grid.rows))
    colours = dict(zip(settings, list(SPAN_COLOURS.values()) * len(settings), strict=False))
    figure = Figure((DOUBLE, 0.9 + 0.22 * len(checkpoints)), layout="constrained")
    for ax, key in zip(figure.subplots(1, len(DRAWN), sharey=True), DRAWN, strict=True):
        column = [c.key for c in COLUMNS].index(key)
        for (name, *setting), cells in grid.rows:
            estimate, number = cells[column], settings.index(tuple(setting))
            if estimate.value is None:
                continue
            if name == summary["base"]:
                ax.axvline(estimate.value, color=colours[tuple(setting)], ls="--", lw=0.8)
            # settings stand 0.2 apart around the middle of the row
            row = checkpoints.index(name) + 0.2 * (number - (len(settings) - 1) / 2)
            if estimate.low is not None:
                ax.plot((estimate.low, estimate.high), (row, row), color=colours[tuple(setting)], lw=1.4)
            ax.plot(estimate.value, row, "o", color=colours[tuple(setting)], mec="white", mew=0.5, ms=4.5)
        ax.set(title=COLUMNS[column].title, ylim=(len(checkpoints) - 0.5, -0.5))
        ax.set_yticks(range(len(checkpoints)), [printable(name) for name in checkpoints])
        ax.tick_params(axis="y", length=0)
    handles = [figure.axes[0].plot([], [], "o", color=colours[s], ms=4.5)[0] for s in settings]
    figure.legend(handles, [printable(", ".join(s)) for s in settings], loc="outside upper left", ncols=4)
    numbers = {
        f"{COLUMNS[i].title}, {', '.join(names)}": in_words(cells[i])
        for i in range(len(COLUMNS))
        for names, cells in grid.rows
    }
    return Page("ablation", figure, written_caption(ABLATION, numbers, f"Base: {summary['base']}."))


def settings_grid(summaries: Sequence[Record], pair: tuple[str, str]) -> Grid:
    """Two checkpoints side by side in every setting: data, format and measure.

    Args:
        summaries: Summaries of evaluations; a setting that several have measured is taken from the first. Parts of a
            data set are no settings of their own.
        pair: Names of the two checkpoints in them.
    """
    settings: dict[tuple[str, str, str], tuple[Estimate, ...]] = {}
    for summary in summaries:
        first, second = (summary["calibration"][name] for name in pair)
        for data, by_method in first.items():
            if data.endswith((SHARED, APART)):
                continue
            for form, numbers in by_method["default"].items():
                sides = (numbers, second[data]["default"][form])
                for key in BETTER:
                    title = MEASURES[key].title
                    settings.setdefault((data, form, title), tuple(of_record(side[key]) for side in sides))
    return Grid(("data", "format", "measure"), tuple(Column(name, name) for name in pair), tuple(settings.items()))


def ahead(grid: Grid) -> dict[str, tuple[int, int]]:
    """By measure, in how many settings the first of two columns is better, and in how many both have a value.

    Args:
        grid: As `settings_grid` makes it.
    """
    counts: dict[str, tuple[int, int]] = {}
    for (*_, title), (first, second) in grid.rows:
        if first.value is not None and second.value is not None:
            better, compared = counts.get(title, (0, 0))
            wins = first.value > second.value if title == MEASURES["auroc"].title else first.value < second.value
            counts[title] = better + wins, compared + 1
    return counts


def reported_settings(folders: Sequence[Path], pair: tuple[str, str], out: Path) -> None:
    """Writes the table `settings`, and prints in how many settings the first of the pair does better.

    Args:
        folders: Directories of finished evaluations.
        pair: Names of two checkpoints that all of them evaluated.
        out: The directory of the table.
    """
    grid = settings_grid([read_run(folder)[1] for folder in folders], pair)
    grid.written(out, "settings")
    counts = ahead(grid)
    wins = ", ".join(f"{title} in {better} of {compared}" for title, (better, compared) in counts.items())
    print(f"{pair[0]} does better than {pair[1]} by {wins} settings; see {out / 'settings'}.md")
