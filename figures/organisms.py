"""Organisms as tables: what the check says of each, and what every instrument says of each.

Everything is read from the summaries of finished runs; this module does not import `training`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from figures.captions import digits, interval, marked, percent
from figures.grid import Column, Grid, for_markdown
from figures.table import console, estimates_of, literal, printed_grid
from interp.errors import UserError
from interp.instruments.base import Metric
from interp.instruments.registry import INSTRUMENTS
from interp.intervals import Estimate
from interp.run.runs import Record, read_run

TABLE = "organisms"
"""The name of the files of the check's table."""
SEEN = "seen"
"""The name of the file of what the instruments say."""
SPOKEN = {
    "jsd": ("jsd.median", "jsd.branched.median", "jsd.noise_floor"),
    "rollout": ("rollout.answer.mass", "rollout.answer.null"),
}
"""The numbers that speak for an instrument, where they are others than its first headline numbers."""
SPOKEN_AT_MOST = 2
"""Headline numbers that speak for any other instrument."""


def check_grid(summary: Record) -> Grid:
    """A row for the base and each organism: what each cue explains, and how far the confidence varies.

    Args:
        summary: The summary.json of the organisms.
    """
    of_each: dict[str, Record] = summary["organisms"]
    cues = list(next(iter(of_each.values()))["explained"])
    columns = (
        *(Column(f"explained.{cue}", f"R² of {cue}", 1.0, 3) for cue in cues),
        Column("deviation", "standard deviation", 1.0, 4),
        Column("mean", "mean", 1.0, 3),
        Column("off_scale", "off-scale mass", 1.0, 3),
    )
    rows = []
    for name, numbers in of_each.items():
        values = (*(numbers["explained"][cue] for cue in cues), *(numbers[c.key] for c in columns[len(cues) :]))
        verdict = "–" if name == "base" else "yes" if numbers["passed"] else "no"
        rows.append(((name, verdict), tuple(Estimate(value, None, None, numbers["pairs"]) for value in values)))
    return Grid(("organism", "passed"), columns, tuple(rows))


def check_title(summary: Record) -> str:
    """What the table of the check shows."""
    pairs = next(iter(summary["organisms"].values()))["pairs"]
    return f"Expected confidence after {pairs} held-out pairs: share of its variance that each cue explains alone"


def left_out(summary: Record) -> list[str]:
    """For each organism that did not pass its check, why, in a sentence."""
    return [
        f"{name} is left out: {'; '.join(numbers['reasons'])}."
        for name, numbers in summary["organisms"].items()
        if not numbers["passed"]
    ]


def printed_check(folder: Path, summary: Record) -> None:
    """Prints the check of organisms and writes it as a table.

    Args:
        folder: The directory of the organisms.
        summary: Its summary.json.
    """
    grid = check_grid(summary)
    printed_grid(grid, check_title(summary))
    grid.written(folder, TABLE)
    out = console()
    for line in left_out(summary):
        out.print(literal(line))
    out.print(literal(f"the table: {folder / TABLE}.csv, .md, .tex"))


def speaking(instrument: str) -> list[Metric]:
    """The numbers that speak for an instrument: those of `SPOKEN`, else its first headline numbers, else its first."""
    metrics = INSTRUMENTS[instrument].metrics
    if instrument in SPOKEN:
        return [metric for metric in metrics if metric.key in SPOKEN[instrument]]
    return ([metric for metric in metrics if metric.place == "headline"] or list(metrics))[:SPOKEN_AT_MOST]


def _shown(metric: Metric, estimate: Estimate | None) -> str:
    """A number with its interval; where it has a null, with the null's upper end as well."""
    if estimate is None or estimate.value is None:
        return "–"
    number = percent if metric.unit == "share" else digits
    text = f"{marked(estimate, number(estimate.value))} {interval(estimate, number)}".strip()
    return f"{text}, null up to {number(estimate.null.high)}" if estimate.null else text


def _pipe_table(rows: Sequence[Sequence[str]], labels: int) -> Iterator[str]:
    """The lines of a pipe table. rows: the header first; labels: how many columns are text."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(map(for_markdown, row))} |"
        if number == 0:
            yield f"| {' | '.join(['---'] * labels + ['---:'] * (len(row) - labels))} |"


def seen_markdown(
    summaries: Mapping[str, Sequence[Record]], words: Mapping[str, str], instruments: Sequence[str]
) -> str:
    """Which instrument sees what: two tables, one of the numbers that speak and one of all headline numbers.

    Args:
        summaries: The summaries of the diagnoses of each organism by its name, the base's among them.
        words: What each organism's confidence depends on.
        instruments: The names of the instruments that ran.

    Returns:
        A page in Markdown.
    """
    estimates = {
        name: {key: number for summary in of_each for key, number in estimates_of(summary).items()}
        for name, of_each in summaries.items()
    }
    header = ["organism", "its confidence depends on"]
    header += [f"{name}: {'; '.join(metric.title for metric in speaking(name))}" for name in instruments]
    rows = [header]
    for organism, numbers in estimates.items():
        cells = [
            "; ".join(_shown(metric, numbers.get(metric.key)) for metric in speaking(name)) for name in instruments
        ]
        rows.append([organism, words[organism], *cells])
    lines = ["# Which instrument sees what", "", _data(summaries), "", *_pipe_table(rows, 2), ""]
    lines += ["## All headline numbers", ""]
    whole = [["instrument", "number", *estimates]]
    for name in instruments:
        shown = {metric.key: metric for metric in INSTRUMENTS[name].metrics if metric.place == "headline"}
        shown |= {metric.key: metric for metric in speaking(name)}
        for key, metric in shown.items():
            if any(key in numbers for numbers in estimates.values()):
                cells = [_shown(metric, numbers.get(key)) for numbers in estimates.values()]
                whole.append([name, metric.title, *cells])
    lines += [*_pipe_table(whole, 2), ""]
    return "\n".join(lines) + "\n"


def _data(summaries: Mapping[str, Sequence[Record]]) -> str:
    """Of which questions the numbers are."""
    data = next(iter(summaries.values()))[0]["data"]
    return (
        f"{data['right']} questions that the model without an adapter answers right, with its right and wrong answers, "
        "for every organism. In square brackets 95 % intervals for other questions of these relations."
    )


def reported_seen(folder: Path, runs: Mapping[str, Sequence[Path]], instruments: Sequence[str]) -> Path:
    """Writes the tables of all diagnoses beside the organisms and prints them.

    Args:
        folder: The directory of the organisms.
        runs: The finished diagnoses of each organism by its name, the base's among them.
        instruments: The names of the instruments that ran.

    Returns:
        The file.

    Raises:
        UserError: where the file cannot be written.
    """
    words = {name: numbers["words"] for name, numbers in read_run(folder)[1]["organisms"].items()}
    summaries = {name: [read_run(run)[1] for run in of_each] for name, of_each in runs.items()}
    text = seen_markdown(summaries, words, instruments)
    file = folder / f"{SEEN}.md"
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; the runs beside it are kept") from None
    console().print(literal(text))
    return file
